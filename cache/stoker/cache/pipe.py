"""One connection to Redis that the tasks of an event loop share.

What they ask within one turn of the loop goes out in one write, or of many tasks in a few, in the order in which it was
asked, and replies come in that order. So whose a reply is can only be known while every byte is accounted for: a caller
who is cancelled leaves his place in the order to replies that nobody reads, and anything else that goes wrong, a
time-out too, closes the connection and fails all who wait on it. Only `aio_transport` uses it.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol, cast

import redis
from msgspec import Struct
from redis.exceptions import RedisError

from stoker.cache.dialogue import WHO, Line, Replies, no_primary, unknown_scripts
from stoker.cache.options import CacheConfig
from stoker.cache.wire import Answer, Exchange

_GRACE_S = 0.01
_TOGETHER = 32
"""Callers whose commands go out at once, so that the server is at work while the loop sees to the others."""


class Wire(Protocol):
    """What is used of a redis-py asyncio connection."""

    _writer: asyncio.StreamWriter | None

    async def connect(self) -> None: ...

    async def disconnect(self, nowait: bool = False) -> None: ...


class _Turn(Struct, gc=False):
    """Commands of one caller, and the replies that have come to them.

    Attributes:
        unknown: Those that were sent once more, as the server did not know their scripts.
        before: The replies that came first.
    """

    packed: bytes
    count: int
    commands: Exchange
    landed: "asyncio.Future[Answer]"
    replies: list[Any] = []
    unknown: Sequence[int] = ()
    before: list[Any] = []
    over_at: float = 0.0


class Pipe(asyncio.Protocol):
    """A connection that redis-py has opened, and that knows which server process it leads to.

    Attributes:
        users: Operations that are under way on it.
        load: Bytes of commands that were not answered yet.
        mourned: Whether its end was counted as a failure of the server's.
    """

    def __init__(self, raw: Wire, config: CacheConfig) -> None:
        assert raw._writer is not None, "it is open"
        self.raw = raw
        self.line = Line()
        self.users = self.load = self._heard = 0
        self.mourned = False
        self._config = config
        self._loop = asyncio.get_running_loop()
        self._transport = cast("asyncio.Transport", raw._writer.transport)
        self._opened_by = self._transport.get_protocol()
        self._transport.set_protocol(self)
        self._replies = Replies()
        self._waiting: deque[_Turn] = deque()
        self._unsent: list[_Turn] = []
        self._alone = True
        self._clock: asyncio.TimerHandle | None = None
        self._error: Exception | None = None

    @property
    def open(self) -> bool:
        """Whether it can be used, as far as is known."""
        return not self.line.broken and not self._transport.is_closing()

    @property
    def at_hand(self) -> bool:
        """Whether it can be used, and need not be looked at first."""
        line = self.line
        return not line.broken and (self.load > 0 or not line.idle) and not self._transport.is_closing()

    @property
    def ended(self) -> bool:
        """Whether the connection is gone."""
        return self._error is not None

    async def meet(self) -> None:
        """Learn who is at the other end."""
        self.line.meet((await self.ask(WHO)).replies, self._config)

    async def alive(self) -> bool:
        """Whether the server has neither closed it nor sent what nobody asked for."""
        if self.line.idle and not self._waiting:
            await asyncio.sleep(0)  # lets the loop see what has arrived
        return self.open

    def ask(self, commands: Exchange) -> "asyncio.Future[Answer]":
        """Send the commands together; the answer will have one reply a command, errors as values."""
        if self._error is not None:
            raise self._error
        landed: asyncio.Future[Answer] = asyncio.Future(loop=self._loop)
        packed = self.line.packed(commands)
        self.load += len(packed)
        unsent = self._unsent
        unsent.append(_Turn(packed, len(commands), commands, landed))
        count = len(unsent)
        if count == _TOGETHER or (count == 1 and self._alone and not self._waiting):
            self._flush()  # to gather costs a turn of the loop, which is for nothing while there is one task
        elif count == 1:
            self._loop.call_soon(self._flush)
        return landed

    def _flush(self) -> None:
        """Send what was asked since the last time, but for what nobody waits for any more."""
        unsent = self._unsent
        if not unsent:
            return
        self._unsent = []
        self._alone = len(unsent) < 2
        self.line.used_at = now = time.monotonic()
        over_at = now + self._config.timeout
        out = []
        for turn in unsent:
            if turn.landed.done():
                self.load -= len(turn.packed)
            else:
                turn.over_at = over_at
                self._waiting.append(turn)
                out.append(turn.packed)
        if not out:
            return
        self._transport.write(b"".join(out))
        if self._clock is None:
            self._clock = self._loop.call_later(self._config.timeout, self._look_at_the_clock)

    def _look_at_the_clock(self, heard: int = -1) -> None:
        """Give up if the first in the order waits for too long; `heard` says what had come when he already did."""
        self._clock = None
        if not self._waiting:
            return
        left = self._waiting[0].over_at - time.monotonic()
        if left > 0:
            self._clock = self._loop.call_later(left, self._look_at_the_clock)
        elif heard != self._heard and -left < self._config.timeout:
            # The loop may have been kept busy for all that time, and the answer, or some of it, be there.
            self._clock = self._loop.call_later(_GRACE_S, self._look_at_the_clock, self._heard)
        else:
            self.fail(redis.TimeoutError("no answer in time"))

    def data_received(self, data: bytes) -> None:
        """Hand replies to those who wait for them."""
        waiting, replies, line = self._waiting, self._replies, self.line
        self._heard += 1
        try:
            replies.feed(data)
            while waiting:
                turn = waiting[0]
                if not replies.collect(turn.replies, turn.count):
                    return
                waiting.popleft()
                self.load -= len(turn.packed)
                if turn.landed.done():
                    continue
                if turn.unknown or replies.faulty:
                    self._look_at(turn)
                else:
                    turn.landed.set_result(Answer(turn.replies, line.server, line.process))
        except RedisError as error:
            self.fail(error)
            return
        if replies.left_over():
            self.fail(redis.ConnectionError("the server sent what nobody had asked for"))

    def _look_at(self, turn: _Turn) -> None:
        """Pass on replies among which are errors, unless some commands are to be sent once more."""
        line, replies = self.line, turn.replies
        self._replies.faulty = False
        line.broken = line.broken or no_primary(replies)  # for whoever comes next
        if not turn.unknown and (unknown := unknown_scripts(replies)):
            again = [turn.commands[i] for i in unknown]
            turn.packed, turn.count = line.packed(again, whole=True), len(again)
            turn.unknown, turn.before, turn.replies = unknown, replies, []
            self.load += len(turn.packed)
            self._unsent.append(turn)
            self._loop.call_soon(self._flush)
            return
        for i, reply in zip(turn.unknown, replies, strict=False):
            turn.before[i] = reply
        turn.landed.set_result(Answer(turn.before or replies, line.server, line.process))

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended, from either side."""
        self.fail(redis.ConnectionError(str(exc) if exc else "the server closed the connection"))
        self._opened_by.connection_lost(None)  # redis-py waits for that when it closes

    def fail(self, error: Exception) -> None:
        """Close the connection, and tell all who wait: whether what they asked was done is unknown."""
        if self._error is not None:
            return
        self._error = error
        self.line.broken = True
        turns = (*self._waiting, *self._unsent)
        self._waiting.clear()
        self._unsent.clear()
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None
        for turn in turns:
            if not turn.landed.done():
                turn.landed.set_exception(type(error)(*error.args))
        self._transport.abort()

    async def close(self, *, nowait: bool = False) -> None:
        """End the connection, and wait until it has."""
        self.fail(redis.ConnectionError("the connection is closed"))
        await self.raw.disconnect(nowait=nowait)
