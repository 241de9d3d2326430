"""One round trip to Redis with as little in between as possible.

redis-py opens, authenticates and closes connections (TCP, TLS, unix socket); this module checks them out last-in
first-out, writes a whole exchange at once and reads its replies. A connection that failed in any way is closed, never
reused, so a late reply can not be taken for another request's. Only `engine` uses it.
"""

import logging
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar, cast

import redis
from redis.backoff import NoBackoff
from redis.connection import ConnectionPool
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from stoker.cache.breaker import Breaker
from stoker.cache.dialogue import Line, Talk, all_busy, pool_of, reason
from stoker.cache.errors import CacheUnavailable
from stoker.cache.options import CacheConfig
from stoker.cache.wire import Answer, Exchange, Operation, once

T = TypeVar("T")
log = logging.getLogger(__name__)


class Wire(Protocol):
    """What is used of a redis-py connection."""

    @property
    def is_connected(self) -> bool: ...

    def connect(self) -> None: ...

    def disconnect(self) -> None: ...

    def can_read(self, timeout: float = 0) -> bool: ...

    def send_packed_command(self, command: list[bytes], check_health: bool = True) -> None: ...

    def read_response(self, disable_decoding: bool = False) -> Any: ...


class Connection:
    """A redis-py connection that knows which server process it leads to."""

    __slots__ = ("line", "raw")

    def __init__(self, raw: Wire, config: CacheConfig) -> None:
        self.raw = raw
        self.line = Line()
        self._hold(self.line.meet(config))

    def alive(self) -> bool:
        """Whether the server has neither closed it nor sent what nobody asked for."""
        if not self.line.idle:
            return True
        try:
            return not self.raw.can_read(timeout=0)
        except (RedisError, OSError):
            return False

    def ask(self, commands: Exchange) -> Answer:
        """Send the commands in one write and read one reply a command, errors as values."""
        return Answer(self._hold(self.line.ask(commands)), self.line.server, self.line.process)

    def _hold(self, talk: Talk[T]) -> T:
        try:
            packed = next(talk)
            while True:
                packed = talk.send(self._round_trip(packed))
        except StopIteration as stop:
            result: T = stop.value
            return result

    def _round_trip(self, packed: Sequence[bytes]) -> list[Any]:
        # redis-py would connect anew, to a server that nobody has asked who it is.
        if not self.raw.is_connected:
            raise redis.ConnectionError("the connection is closed")
        self.raw.send_packed_command([b"".join(packed)], check_health=False)
        replies = []
        for _ in packed:
            try:
                replies.append(self.raw.read_response(disable_decoding=True))
            except ResponseError as error:
                replies.append(error)
        return replies


class Transport:
    """The connections of one process to one server. Threads may share it."""

    def __init__(self, config: CacheConfig) -> None:
        self._config = config
        self._connections = _source(config)
        self.forked()

    def forked(self) -> None:
        """Begin without connections: a forked child must not talk on its parent's."""
        self._idle: deque[Connection] = deque()
        self._free = threading.BoundedSemaphore(self._config.max_connections)
        self._begin()

    def _begin(self) -> None:
        self._breaker = Breaker(self._config.breaker_failures, self._config.breaker_reset)
        self._prober: threading.Thread | None = None
        self._probing = threading.Lock()
        self._closed = threading.Event()

    def run(self, operation: Operation[T]) -> T:
        """Drive an operation of the protocol to its end, all of it on one connection.

        Raises:
            CacheUnavailable: No connection, no answer in time, or it broke; whether the commands ran is unknown.
        """
        if self._breaker.open:
            self._keep_probing()
            raise self._breaker.refusal()
        return self._run(operation)

    def _run(self, operation: Operation[T]) -> T:
        if not self._free.acquire(timeout=self._config.timeout):
            raise CacheUnavailable("redis", all_busy(self._config))
        try:
            connection = self._checkout()
            try:
                return self._drive(operation, connection)
            finally:
                self._checkin(connection)
        finally:
            self._free.release()

    def _drive(self, operation: Operation[T], connection: Connection) -> T:
        try:
            commands = next(operation)
            while True:
                commands = operation.send(connection.ask(commands))
        except StopIteration as stop:
            self._breaker.succeeded()
            result: T = stop.value
            return result
        except (RedisError, OSError) as error:
            self._drop_idle()  # what broke one has most likely broken the others
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> CacheUnavailable:
        self._breaker.failed()
        return CacheUnavailable("redis", reason(error, self._config))

    def _keep_probing(self) -> None:
        with self._probing:
            if self._prober is None or not self._prober.is_alive():
                self._prober = threading.Thread(
                    target=self._probe, args=(self._closed,), name="stoker-probe", daemon=True
                )
                self._prober.start()

    def _probe(self, closed: threading.Event) -> None:
        while self._breaker.open and not closed.wait(self._breaker.reset):
            try:
                self._run(once(("PING",)))
            except CacheUnavailable as error:
                log.debug("still no answer: %s", error)

    def _checkout(self) -> Connection:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return self._open()
            if connection.alive():
                return connection
            connection.raw.disconnect()

    def _checkin(self, connection: Connection) -> None:
        if connection.line.broken:
            connection.raw.disconnect()
        else:
            self._idle.append(connection)

    def _open(self) -> Connection:
        raw = cast("Wire", self._connections.make_connection())
        try:
            raw.connect()
            return Connection(raw, self._config)
        except (RedisError, OSError) as error:
            raw.disconnect()
            raise self._failed(error) from error
        except BaseException:
            raw.disconnect()
            raise

    def _drop_idle(self) -> None:
        while True:
            try:
                self._idle.pop().raw.disconnect()
            except IndexError:
                return

    def close(self) -> None:
        """Close the idle connections. The transport stays usable: the next exchange opens a new one."""
        self._closed.set()
        self._begin()
        self._drop_idle()


def _source(config: CacheConfig) -> ConnectionPool:
    return pool_of(ConnectionPool, config, socket_timeout=config.timeout, retry=Retry(NoBackoff(), 0))


Client = redis.Redis


def client(config: CacheConfig) -> Client:
    """A plain redis-py client of the same server, for diagnosis."""
    return redis.Redis(connection_pool=_source(config))
