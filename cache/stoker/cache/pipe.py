"""One connection to Redis that the tasks of an event loop share.

What they ask within one turn of the loop goes out in one write, in the order in which it was asked, and replies come in
that order. So whose a reply is can only be known while every byte is accounted for: a caller who is cancelled leaves
his place in the order to replies that nobody reads, and anything else that goes wrong, a time-out too, closes the
connection and fails all who wait on it. Only `aio_transport` uses it.
"""

import asyncio
import time
from collections import deque
from typing import Any, Protocol, cast

import redis
from redis.exceptions import RedisError

from stoker.cache.dialogue import WHO, Line, Replies, any_error, no_primary, unknown_scripts
from stoker.cache.options import CacheConfig
from stoker.cache.wire import Answer, Exchange

_GRACE_S = 0.01


class Wire(Protocol):
    """What is used of a redis-py asyncio connection."""

    _writer: asyncio.StreamWriter | None

    async def connect(self) -> None: ...

    async def disconnect(self, nowait: bool = False) -> None: ...


class _Turn:
    """Commands of one caller, and the replies that have come to them."""

    __slots__ = ("count", "landed", "over_at", "packed", "replies")

    def __init__(self, packed: bytes, count: int, landed: "asyncio.Future[list[Any]]") -> None:
        self.packed = packed
        self.count = count
        self.landed = landed
        self.replies: list[Any] = []
        self.over_at = 0.0


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
    def ended(self) -> bool:
        """Whether the connection is gone."""
        return self._error is not None

    async def meet(self) -> None:
        """Learn who is at the other end."""
        self.line.meet(await self._round_trip(WHO, 2), self._config)

    async def alive(self) -> bool:
        """Whether the server has neither closed it nor sent what nobody asked for."""
        if self.line.idle and not self._waiting:
            await asyncio.sleep(0)  # lets the loop see what has arrived
        return self.open

    async def ask(self, commands: Exchange) -> Answer:
        """Send the commands together and wait for one reply a command, errors as values."""
        line = self.line
        replies = await self._round_trip(line.packed(commands), len(commands))
        if any_error(replies):
            await self._send_again(commands, replies)
            line.broken = line.broken or no_primary(replies)  # for whoever comes next
        return Answer(replies, line.server, line.process)

    async def _send_again(self, commands: Exchange, replies: list[Any]) -> None:
        if unknown := unknown_scripts(replies):
            packed = self.line.packed([commands[i] for i in unknown], whole=True)
            for i, reply in zip(unknown, await self._round_trip(packed, len(unknown)), strict=True):
                replies[i] = reply

    def _round_trip(self, packed: bytes, count: int) -> "asyncio.Future[list[Any]]":
        if self._error is not None or self._transport.is_closing():
            raise self._error or redis.ConnectionError("the connection is closed")
        landed: asyncio.Future[list[Any]] = self._loop.create_future()
        turn = _Turn(packed, count, landed)
        self.load += len(packed)
        self._unsent.append(turn)
        if len(self._unsent) == 1:
            if self._alone and not self._waiting:
                self._flush()  # to gather costs a turn of the loop, which is for nothing while there is one task
            else:
                self._loop.call_soon(self._flush)
        return landed

    def _flush(self) -> None:
        """Send what was asked since the last time, but for what nobody waits for any more."""
        turns = [turn for turn in self._unsent if not turn.landed.done()]
        self._alone = len(self._unsent) < 2
        for turn in self._unsent:
            if turn.landed.done():
                self.load -= len(turn.packed)
        self._unsent.clear()
        if not turns:
            return
        self.line.used_at = time.monotonic()
        over_at = self.line.used_at + self._config.timeout
        for turn in turns:
            turn.over_at = over_at
        self._waiting.extend(turns)
        self._transport.write(b"".join([turn.packed for turn in turns]))
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
        waiting, replies = self._waiting, self._replies
        self._heard += 1
        try:
            replies.feed(data)
            while waiting:
                turn = waiting[0]
                if not replies.collect(turn.replies, turn.count):
                    return
                waiting.popleft()
                self.load -= len(turn.packed)
                if not turn.landed.done():
                    turn.landed.set_result(turn.replies)
        except RedisError as error:
            self.fail(error)
            return
        if replies.left_over():
            self.fail(redis.ConnectionError("the server sent what nobody had asked for"))

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
