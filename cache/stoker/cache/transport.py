"""One round trip to Redis with as little in between as possible.

redis-py opens, authenticates and closes connections (TCP, TLS, unix socket); this module checks them out last-in
first-out, writes a whole exchange at once to the socket and reads its replies. A connection that failed in any way is
closed, never reused, so a late reply can not be taken for another request's. Only `engine` uses it.
"""

import logging
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Any, Protocol, TypeVar, cast

import redis
from redis.backoff import NoBackoff
from redis.connection import ConnectionPool
from redis.exceptions import RedisError
from redis.retry import Retry

from stoker.cache.breaker import Breaker
from stoker.cache.dialogue import (
    WHO,
    Line,
    Replies,
    all_busy,
    no_primary,
    pool_of,
    reason,
    unknown_scripts,
)
from stoker.cache.errors import CacheUnavailable
from stoker.cache.options import CacheConfig
from stoker.cache.wire import Answer, Exchange, Operation, once

T = TypeVar("T")
log = logging.getLogger(__name__)
_READ_BYTES = 65_536


class Wire(Protocol):
    """What is used of a redis-py connection."""

    _sock: socket.socket | None

    def connect(self) -> None: ...

    def disconnect(self) -> None: ...

    def can_read(self, timeout: float = 0) -> bool: ...


class Connection:
    """A connection that redis-py has opened, and that knows which server process it leads to."""

    __slots__ = ("_buffer", "_replies", "_socket", "_timeout", "line", "raw")

    def __init__(self, raw: Wire, config: CacheConfig) -> None:
        assert raw._sock is not None, "it is open"
        self.raw = raw
        self.line = Line()
        self._socket = raw._sock
        self._socket.settimeout(config.timeout)
        self._timeout = config.timeout
        self._replies = Replies()
        self._buffer = bytearray(_READ_BYTES)
        self.line.meet(self.ask(WHO).replies, config)

    def alive(self) -> bool:
        """Whether the server has neither closed it nor sent what nobody asked for."""
        try:
            return not self.raw.can_read(timeout=0)
        except (RedisError, OSError):
            return False

    def ask(self, commands: Exchange) -> Answer:
        """Send the commands in one write and read one reply a command, errors as values."""
        line = self.line
        line.broken = True  # until all replies are read
        replies = self._round_trip(line.packed(commands), len(commands))
        lost = False
        if self._replies.faulty:
            self._send_again(commands, replies)
            self._replies.faulty = False
            lost = no_primary(replies)
        line.broken = lost or self._replies.left_over()
        return Answer(replies, line.server, line.process)

    def hurry(self, seconds: float) -> None:
        """From now on wait for so long at most, each time that something is sent or awaited."""
        self._timeout = seconds
        self._socket.settimeout(seconds)

    def _send_again(self, commands: Exchange, replies: list[Any]) -> None:
        if unknown := unknown_scripts(replies):
            packed = self.line.packed([commands[i] for i in unknown], whole=True)
            for i, reply in zip(unknown, self._round_trip(packed, len(unknown)), strict=True):
                replies[i] = reply

    def _round_trip(self, packed: bytes, count: int) -> list[Any]:
        began = self.line.used_at = time.monotonic()
        replies: list[Any] = []
        self._socket.sendall(packed)
        while True:
            size = self._socket.recv_into(self._buffer)
            if not size:
                raise redis.ConnectionError("the server closed the connection")
            self._replies.feed(self._buffer, 0, size)
            if self._replies.collect(replies, count):
                return replies
            if time.monotonic() - began > self._timeout:  # it does answer, but too slowly
                raise redis.TimeoutError(f"no whole answer in {self._timeout:g} s")


class _Pool:
    """The connections of one process: the idle ones, last-in first-out, and how many there are.

    A place is held by each connection, in use or idle. Taking an idle one costs no lock.
    """

    def __init__(self, places: int) -> None:
        self.idle: deque[Connection] = deque()
        self._free = places
        self._waiting = 0
        self._changed = threading.Condition(threading.Lock())

    def take(self, seconds: float) -> Connection | None:
        """An idle connection, or None: the caller has a place and is to open one. Waits until there is either.

        Raises:
            TimeoutError: There was neither for so many seconds.
        """
        try:
            return self.idle.pop()
        except IndexError:
            return self._wait(time.monotonic() + seconds)

    def _wait(self, until: float) -> Connection | None:
        with self._changed:
            self._waiting += 1  # first, so that whoever gives one back from now on sees it
            try:
                while True:
                    if self.idle:
                        try:
                            return self.idle.pop()
                        except IndexError:
                            continue
                    if self._free:
                        self._free -= 1
                        return None
                    if not self._changed.wait(max(0.0, until - time.monotonic())):
                        raise TimeoutError
            finally:
                self._waiting -= 1

    def give(self, connection: Connection) -> None:
        """Give a connection back, to be used again or, if it is broken, closed."""
        if connection.line.broken:
            self.discard(connection.raw)
            return
        self.idle.append(connection)
        if self._waiting:
            with self._changed:
                self._changed.notify()

    def discard(self, raw: Wire) -> None:
        """Close a connection, and let go of its place."""
        try:
            raw.disconnect()
        finally:
            with self._changed:
                self._free += 1
                self._changed.notify()

    def drop_idle(self) -> None:
        """Close those that nobody uses."""
        while True:
            try:
                connection = self.idle.pop()
            except IndexError:
                return
            self.discard(connection.raw)


class Transport:
    """The connections of one process to one server. Threads may share it."""

    def __init__(self, config: CacheConfig) -> None:
        self._config = config
        self._connections = _source(config)
        self.forked()

    def forked(self) -> None:
        """Begin without connections: a forked child must not talk on its parent's."""
        self._pool = _Pool(self._config.max_connections)
        self._begin()

    def _begin(self) -> None:
        self._breaker = Breaker(self._config.breaker_failures, self._config.breaker_reset)
        self._prober: threading.Thread | None = None
        self._probing = threading.Lock()
        self._closed = threading.Event()

    def run(self, operation: Operation[T], *, probing: bool = False) -> T:
        """Drive an operation of the protocol to its end, all of it on one connection; `probing`: at any rate.

        Raises:
            CacheUnavailable: No connection, no answer in time, or it broke; whether the commands ran is unknown.
        """
        if self._breaker.open and not probing:
            self._keep_probing()
            raise self._breaker.refusal()
        pool = self._pool
        connection = self._checkout(pool)
        try:
            commands = next(operation)
            while True:
                commands = operation.send(connection.ask(commands))
        except StopIteration as stop:
            self._breaker.succeeded()
            result: T = stop.value
            return result
        except (RedisError, OSError) as error:
            pool.drop_idle()  # what broke one has most likely broken the others
            raise self._failed(error) from error
        finally:
            pool.give(connection)

    def in_passing(self, _key: bytes, commands: Exchange, seconds: float) -> None:
        """Have done what concerns this key, whatever is answered, over a connection that is open and idle, if any is.

        For a process that ends: nothing is connected to, looked up or tried again, and nothing lasts for much longer
        than so many seconds.
        """
        with suppress(IndexError):
            connection = self._pool.idle.pop()
            try:
                connection.hurry(seconds)
                connection.ask(commands)
            except (RedisError, OSError) as error:
                log.debug("not said in passing: %s", error)
            finally:
                self._pool.discard(connection.raw)

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
                self.run(once(("PING",)), probing=True)
            except CacheUnavailable as error:
                log.debug("still no answer: %s", error)

    def _checkout(self, pool: _Pool) -> Connection:
        while True:
            try:
                connection = pool.take(self._config.timeout)
            except TimeoutError:
                raise CacheUnavailable("redis", all_busy(self._config)) from None
            if connection is None:
                return self._open(pool)
            if not connection.line.idle or connection.alive():
                return connection
            pool.discard(connection.raw)

    def _open(self, pool: _Pool) -> Connection:
        raw = cast("Wire", self._connections.make_connection())
        try:
            raw.connect()
            return Connection(raw, self._config)
        except (RedisError, OSError) as error:
            pool.discard(raw)
            raise self._failed(error) from error
        except BaseException:
            pool.discard(raw)
            raise

    def close(self) -> None:
        """Close the idle connections. The transport stays usable: the next exchange opens a new one."""
        self._closed.set()
        self._begin()
        self._pool.drop_idle()


def _source(config: CacheConfig) -> ConnectionPool:
    return pool_of(ConnectionPool, config, socket_timeout=config.timeout, retry=Retry(NoBackoff(), 0))


Client = redis.Redis


def client(config: CacheConfig) -> Client:
    """A plain redis-py client of the same server, for diagnosis."""
    return redis.Redis(connection_pool=_source(config))
