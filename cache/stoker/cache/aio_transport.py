"""As `transport`, for one event loop: its tasks share few connections, see `pipe`.

An operation stays on one connection. A caller who is cancelled harms nobody else's requests. Only `aio` uses it.
"""

import asyncio
import logging
from collections import deque
from typing import TypeVar, cast

import redis
from redis.asyncio.connection import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from stoker.cache.breaker import Breaker
from stoker.cache.dialogue import pool_of, reason
from stoker.cache.errors import CacheUnavailable
from stoker.cache.options import CacheConfig
from stoker.cache.pipe import Pipe, Wire
from stoker.cache.wire import Operation, once

T = TypeVar("T")
log = logging.getLogger(__name__)
MOST_PIPES = 4
"""Connections of one loop, or `max_connections` where that is less."""
_HEAVY = 16_384
"""Bytes of commands under way above which a connection is left to those who use it, while another can be had."""
PLACES = 1000
"""Operations under way on one connection."""


class AioTransport:
    """The connections of one event loop to one server. Its tasks share it."""

    def __init__(self, config: CacheConfig) -> None:
        self._config = config
        # Without a time limit of redis-py's: every round trip has one of ours.
        self._connections = pool_of(ConnectionPool, config, socket_timeout=None, retry=Retry(NoBackoff(), 0))
        self._breaker = Breaker(config.breaker_failures, config.breaker_reset)
        self._most = min(config.max_connections, MOST_PIPES)
        self._places = self._most * PLACES
        self._queue: deque[asyncio.Future[None]] = deque()
        self._pipes: list[Pipe] = []
        self._inherited: list[Pipe] = []
        self._opening: asyncio.Task[None] | None = None
        self._prober: asyncio.Task[None] | None = None
        self._callers = 0
        self._closed = False

    def forked(self) -> None:
        """Go on without connections: a forked child that uses its parent's loop must not talk on its parent's.

        They are kept: to close them would take them from the selector, which both loops share.
        """
        self._inherited += self._pipes
        self._pipes.clear()
        self._opening = None

    async def run(self, operation: Operation[T], *, probing: bool = False) -> T:
        """Drive an operation to its end, all of it on one connection; arguments and errors as of `Transport.run`.

        When the caller is cancelled, whether the commands ran is unknown.
        """
        if self._breaker.open and not probing:
            if not self._closed and (self._prober is None or self._prober.done()):
                self._prober = asyncio.create_task(self._probe(), name="stoker-probe")
            raise self._breaker.refusal()
        # In one piece: between a task and its answer every call, and every coroutine in a coroutine, counts.
        if self._callers >= self._places:
            await self._wait_for_a_place()
        self._callers += 1
        try:
            pipe = self._pipes[0] if self._pipes else None
            if pipe is None or not pipe.at_hand or pipe.load > _HEAVY:
                pipe = await self._checkout()
            pipe.users += 1
            try:
                commands = next(operation)
                while True:
                    commands = operation.send(await pipe.ask(commands))
            except StopIteration as stop:
                self._breaker.succeeded()
                result: T = stop.value
                return result
            except (RedisError, OSError) as error:
                raise await self._failed(pipe, error) from error
            finally:
                pipe.users -= 1
                if pipe.line.broken:
                    await self._retire(pipe)
        finally:
            self._callers -= 1
            if self._queue:
                self._let_in()
            if self._closed and self._callers <= 0:
                await self._shut()

    async def _failed(self, pipe: Pipe, error: Exception) -> CacheUnavailable:
        # One connection that ended is one failure, however many shared it; that each waited in vain is not.
        if isinstance(error, redis.TimeoutError) or not pipe.mourned:
            pipe.mourned = True
            self._breaker.failed()
        for other in [one for one in self._pipes if not one.users]:
            await self._retire(other)  # what broke one has most likely broken the others
        return self._unavailable(error)

    async def _wait_for_a_place(self) -> None:
        try:
            async with asyncio.timeout(self._config.timeout):
                while self._callers >= self._places:
                    turn = asyncio.get_running_loop().create_future()
                    self._queue.append(turn)
                    try:
                        await turn
                    except BaseException:
                        if turn.done() and not turn.cancelled():
                            self._let_in()  # it was this one's turn, and is the next one's now
                        raise
        except TimeoutError:
            reason = (
                f"{self._places} requests were under way for {self._config.timeout:g} s; make fewer at once"
            )
            raise CacheUnavailable("redis", reason) from None

    def _let_in(self) -> None:
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _unavailable(self, error: Exception) -> CacheUnavailable:
        return CacheUnavailable("redis", reason(error, self._config))

    async def _probe(self) -> None:
        while self._breaker.open:
            await asyncio.sleep(self._breaker.reset)
            try:
                await self.run(once(("PING",)), probing=True)
            except CacheUnavailable as error:
                log.debug("still no answer: %s", error)

    async def _checkout(self) -> Pipe:
        while True:
            pipe = self._lightest()
            if pipe is None or (pipe.load > _HEAVY and len(self._pipes) < self._most):
                await self._another()
            elif not pipe.line.idle or await pipe.alive():
                return pipe
            else:
                await self._retire(pipe)

    def _lightest(self) -> Pipe | None:
        """The first connection that has not much to do, so that few write for many; else the one with least."""
        lightest = None
        for pipe in self._pipes:
            if pipe.open:
                if pipe.load <= _HEAVY:
                    return pipe
                if lightest is None or pipe.load < lightest.load:
                    lightest = pipe
        return lightest

    async def _another(self) -> None:
        """Open a connection, once for all who want one at the same time."""
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._open(), name="stoker-connect")
            self._opening.add_done_callback(_noticed)
        try:
            await asyncio.shield(self._opening)
        except (RedisError, OSError) as error:
            raise self._unavailable(error) from error

    async def _open(self) -> None:
        raw = cast("Wire", self._connections.make_connection())  # type: ignore[no-untyped-call]
        try:
            async with asyncio.timeout(self._config.connect_timeout + self._config.timeout):
                await raw.connect()
            pipe = Pipe(raw, self._config)
            await pipe.meet()
        except (RedisError, OSError):
            self._breaker.failed()
            await raw.disconnect(nowait=True)
            raise
        except BaseException:
            await raw.disconnect(nowait=True)
            raise
        for other in [one for one in self._pipes if one.ended]:
            await self._retire(other)  # the server may have closed it while nobody used it
        self._pipes.append(pipe)

    async def _retire(self, pipe: Pipe) -> None:
        """Let go of a connection: at once if it has ended, else when nobody uses it any more."""
        if pipe in self._pipes and (pipe.ended or not pipe.users):
            self._pipes.remove(pipe)
            await pipe.close(nowait=True)

    async def close(self) -> None:
        """Close the connections; if any are in use, once what uses them has ended."""
        self._closed = True
        if self._prober is not None:
            self._prober.cancel()
            self._prober = None
        if self._callers <= 0:
            await self._shut()

    async def _shut(self) -> None:
        if self._opening is not None:
            await asyncio.wait((self._opening,))
        while self._pipes:
            try:
                await self._pipes.pop().close()
            except (RedisError, OSError) as error:
                log.debug("a connection was not closed in time: %s", error)


def _noticed(opening: "asyncio.Task[None]") -> None:
    """All who wanted the connection may have been cancelled: then nobody asks what became of it."""
    if not opening.cancelled():
        opening.exception()
