"""As `transport`, for one event loop.

redis-py's asyncio connections are opened, authenticated and closed by redis-py; a connection whose operation failed or
was cancelled is closed, never reused. Only `aio` uses it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar, cast

import redis
from redis.asyncio.connection import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from stoker.cache.breaker import Breaker
from stoker.cache.dialogue import Line, Talk, all_busy, pool_of, reason
from stoker.cache.errors import CacheUnavailable
from stoker.cache.options import CacheConfig
from stoker.cache.wire import Answer, Exchange, Operation, once

T = TypeVar("T")
log = logging.getLogger(__name__)


class Wire(Protocol):
    """What is used of a redis-py asyncio connection."""

    _writer: asyncio.StreamWriter | None

    @property
    def is_connected(self) -> bool: ...

    async def connect(self) -> None: ...

    async def disconnect(self, nowait: bool = False) -> None: ...

    async def can_read(self) -> bool: ...

    async def send_packed_command(self, command: list[bytes], check_health: bool = True) -> None: ...

    async def read_response(self, disable_decoding: bool = False) -> Any: ...


class Connection:
    """A connection that knows which server process it leads to."""

    __slots__ = ("_timeout", "line", "raw")

    def __init__(self, raw: Wire, timeout: float) -> None:
        self.raw = raw
        self.line = Line()
        self._timeout = timeout

    async def alive(self) -> bool:
        """Whether the server has neither closed it nor sent what nobody asked for."""
        if not self.line.idle:
            return self._connected
        await asyncio.sleep(0)  # lets the loop see what has arrived
        try:
            return self._connected and not await self.raw.can_read()
        except (RedisError, OSError):
            return False

    @property
    def _connected(self) -> bool:
        # redis-py sees that a connection has ended, but not that it was reset; uvloop then raises RuntimeError.
        writer = self.raw._writer
        return self.raw.is_connected and writer is not None and not writer.is_closing()

    async def meet(self, config: CacheConfig) -> None:
        """Learn who is at the other end."""
        await self._hold(self.line.meet(config))

    async def ask(self, commands: Exchange) -> Answer:
        """Send the commands in one write and read one reply a command, errors as values."""
        return Answer(await self._hold(self.line.ask(commands)), self.line.server, self.line.process)

    async def _hold(self, talk: Talk[T]) -> T:
        try:
            packed = next(talk)
            while True:
                async with asyncio.timeout(self._timeout):
                    replies = await self._round_trip(packed)
                packed = talk.send(replies)
        except StopIteration as stop:
            result: T = stop.value
            return result

    async def _round_trip(self, packed: Sequence[bytes]) -> list[Any]:
        # redis-py would connect anew, to a server that nobody has asked who it is.
        if not self._connected:
            raise redis.ConnectionError("the connection is closed")
        await self.raw.send_packed_command([b"".join(packed)], check_health=False)
        replies = []
        for _ in packed:
            try:
                # Without a timeout of its own: with one, redis-py makes a None of a TimeoutError of the socket's.
                replies.append(await self.raw.read_response(disable_decoding=True))
            except ResponseError as error:
                replies.append(error)
        return replies


class AioTransport:
    """The connections of one event loop to one server. Its tasks share it."""

    def __init__(self, config: CacheConfig) -> None:
        self._config = config
        # Without a time limit of redis-py's: every round trip has one of ours.
        self._connections = pool_of(ConnectionPool, config, socket_timeout=None, retry=Retry(NoBackoff(), 0))
        self._breaker = Breaker(config.breaker_failures, config.breaker_reset)
        self._idle: deque[Connection] = deque()
        self._inherited: list[Connection] = []
        self._free = asyncio.Semaphore(config.max_connections)
        self._prober: asyncio.Task[None] | None = None
        self._closed = False

    def forked(self) -> None:
        """Go on without connections: a forked child that uses its parent's loop must not talk on its parent's.

        They are kept: to close them would take them from the selector, which both loops share.
        """
        self._inherited += self._idle
        self._idle.clear()

    async def run(self, operation: Operation[T]) -> T:
        """Drive an operation to its end, all of it on one connection; raises as `Transport.run`.

        When the caller is cancelled the connection is closed: whether the commands ran is unknown.
        """
        if self._breaker.open:
            if not self._closed and (self._prober is None or self._prober.done()):
                self._prober = asyncio.create_task(self._probe(), name="stoker-probe")
            raise self._breaker.refusal()
        return await self._run(operation)

    async def _run(self, operation: Operation[T]) -> T:
        if self._free.locked():
            await self._wait_for_one()
        else:
            await self._free.acquire()
        try:
            connection = await self._checkout()
            try:
                return await self._drive(operation, connection)
            finally:
                await self._checkin(connection)
        finally:
            self._free.release()

    async def _wait_for_one(self) -> None:
        try:
            async with asyncio.timeout(self._config.timeout):
                await self._free.acquire()
        except TimeoutError:
            raise CacheUnavailable("redis", all_busy(self._config)) from None

    async def _drive(self, operation: Operation[T], connection: Connection) -> T:
        try:
            commands = next(operation)
            while True:
                commands = operation.send(await connection.ask(commands))
        except StopIteration as stop:
            self._breaker.succeeded()
            result: T = stop.value
            return result
        except (RedisError, OSError) as error:
            await self._drop_idle()  # what broke one has most likely broken the others
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> CacheUnavailable:
        self._breaker.failed()
        return CacheUnavailable("redis", reason(error, self._config))

    async def _probe(self) -> None:
        while self._breaker.open:
            await asyncio.sleep(self._breaker.reset)
            try:
                await self._run(once(("PING",)))
            except CacheUnavailable as error:
                log.debug("still no answer: %s", error)

    async def _checkout(self) -> Connection:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return await self._open()
            try:
                alive = await connection.alive()
            except asyncio.CancelledError:
                await self._checkin(connection)
                raise
            if alive:
                return connection
            await connection.raw.disconnect(nowait=True)

    async def _checkin(self, connection: Connection) -> None:
        if connection.line.broken or self._closed:
            await connection.raw.disconnect(nowait=True)
        else:
            self._idle.append(connection)

    async def _open(self) -> Connection:
        raw = cast("Wire", self._connections.make_connection())  # type: ignore[no-untyped-call]
        connection = Connection(raw, self._config.timeout)
        try:
            async with asyncio.timeout(self._config.connect_timeout + self._config.timeout):
                await raw.connect()
            await connection.meet(self._config)
        except (RedisError, OSError) as error:
            await raw.disconnect(nowait=True)
            raise self._failed(error) from error
        except BaseException:
            await raw.disconnect(nowait=True)
            raise
        return connection

    async def _drop_idle(self) -> None:
        while self._idle:
            await self._idle.pop().raw.disconnect(nowait=True)

    async def close(self) -> None:
        """Close the idle connections, and those in use once what uses them has ended."""
        self._closed = True
        if self._prober is not None:
            self._prober.cancel()
            self._prober = None
        while self._idle:
            try:
                await self._idle.pop().raw.disconnect()
            except (RedisError, OSError) as error:
                log.debug("a connection was not closed in time: %s", error)
