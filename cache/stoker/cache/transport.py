"""One round trip to Redis with as little in between as possible.

redis-py opens, authenticates and closes connections (TCP, TLS, unix socket); this module checks them out last-in
first-out, writes a whole exchange at once and reads its replies. A connection that failed in any way is closed, never
reused, so a late reply can not be taken for another request's. Only `backends.redis` uses it.
"""

import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar, cast

import hiredis
import redis
from redis.backoff import NoBackoff
from redis.connection import ConnectionPool
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError
from redis.retry import Retry

from stoker.cache.breaker import Breaker
from stoker.cache.errors import CacheUnavailable, ConfigError
from stoker.cache.options import CacheConfig, masked_url
from stoker.cache.wire import Answer, Call, Exchange, Operation, refusal

T = TypeVar("T")
log = logging.getLogger(__name__)
UNKNOWN_SERVER = b"-"
"""Stands for the server's id where it is hidden or the boot fence is off."""
_HIDDEN = b"hidden "
_IDLE_S = 0.05
"""A connection unused for longer is asked whether the server has closed it."""


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
    """A redis-py connection that knows which server process it leads to.

    Attributes:
        server: The process by the boot fence's name for it: its run_id, or UNKNOWN_SERVER.
        process: The process itself, also where the fence is off; unique to this connection where it is hidden.
        broken: Whether it must be closed: replies may be outstanding, or the server is no primary any more.
    """

    __slots__ = ("broken", "process", "raw", "server", "used_at")

    def __init__(self, raw: Wire, config: CacheConfig) -> None:
        self.raw = raw
        self.process = _identify(raw)
        self.server = self.process
        if config.boot_fence == "off" or self.process.startswith(_HIDDEN):
            self.server = UNKNOWN_SERVER
        self.broken = False
        self.used_at = time.monotonic()

    def alive(self) -> bool:
        """Whether the server has neither closed it nor sent what nobody asked for."""
        if time.monotonic() - self.used_at < _IDLE_S:
            return True
        try:
            return not self.raw.can_read(timeout=0)
        except (RedisError, OSError):
            return False

    def ask(self, commands: Exchange) -> Answer:
        """Send the commands in one write and read one reply a command, errors as values."""
        self.broken = True  # until all replies are read
        replies = self._round_trip([self._wire(command, by_sha=True) for command in commands])
        unknown = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:
            again = self._round_trip([self._wire(commands[i], by_sha=False) for i in unknown])
            for i, reply in zip(unknown, again, strict=True):
                replies[i] = reply
        self.used_at = time.monotonic()
        # A server that has become a replica: whoever connects next asks it who it is.
        self.broken = any(isinstance(reply, ReadOnlyError) for reply in replies)
        return Answer(replies, self.server, self.process)

    def _wire(self, command: tuple[bytes | str | int, ...] | Call, *, by_sha: bool) -> bytes:
        if isinstance(command, Call):
            script = command.script
            how: tuple[bytes, bytes] = (b"EVALSHA", script.sha) if by_sha else (b"EVAL", script.source)
            command = (*how, len(command.keys), *command.keys, self.server, *command.args)
        return _pack(command)

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


def _pack(command: tuple[bytes | str | int, ...]) -> bytes:
    return bytes(hiredis.pack_command(cast("Any", command)))  # its annotation knows tuples of one item only


class Transport:
    """The connections of one process to one server. Threads may share it."""

    def __init__(self, config: CacheConfig) -> None:
        self._config = config
        self._connections = _source(config)
        self._breaker = Breaker(config.breaker_failures, config.breaker_reset)
        self.forked()

    def forked(self) -> None:
        """Begin without connections: a forked child must not talk on its parent's."""
        self._idle: deque[Connection] = deque()
        self._free = threading.BoundedSemaphore(self._config.max_connections)

    def run(self, operation: Operation[T]) -> T:
        """Drive an operation of the protocol to its end, all of it on one connection.

        Raises:
            CacheUnavailable: No connection, no answer in time, or it broke; whether the commands ran is unknown.
        """
        self._breaker.check()
        if not self._free.acquire(timeout=self._config.timeout):
            raise CacheUnavailable(
                "redis",
                f"all {self._config.max_connections} connections were busy for {self._config.timeout:g} s; "
                "raise max_connections",
            )
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
            self._breaker.failed()
            self._drop_idle()  # what broke one has most likely broken the others
            raise CacheUnavailable("redis", _reason(error, self._config)) from error

    def exchange(self, commands: Exchange) -> Answer:
        """One round trip. Raises as `run`."""
        return self.run(_once(commands))

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
        if connection.broken:
            connection.raw.disconnect()
        else:
            self._idle.append(connection)

    def _open(self) -> Connection:
        raw = cast("Wire", self._connections.make_connection())
        try:
            raw.connect()
            return Connection(raw, self._config)
        except (RedisError, OSError) as error:
            self._breaker.failed()
            raw.disconnect()
            raise CacheUnavailable("redis", _reason(error, self._config)) from error
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
        self._drop_idle()


def _once(commands: Exchange) -> Operation[Answer]:
    return (yield commands)


def _source(config: CacheConfig) -> ConnectionPool:
    try:
        return ConnectionPool.from_url(
            config.redis_url or "",
            protocol=3,
            socket_connect_timeout=config.connect_timeout,
            socket_timeout=config.timeout,
            retry=Retry(NoBackoff(), 0),
            max_connections=2**31,
        )
    except (ValueError, RedisError) as error:
        raise ConfigError("redis_url", masked_url(config.redis_url or ""), str(error)) from error


def _identify(raw: Wire) -> bytes:
    """The id of the server process at the other end, which must be a primary (rule 6)."""
    if b"role:slave" in _info(raw, "replication"):
        raise RedisError("this server is a replica; connect to the primary")
    found = re.search(rb"run_id:([0-9a-f]{16})", _info(raw, "server"))
    if found is None:
        log.warning("the server hides its run_id: a restart from an old dump is noticed late or not at all")
        return _HIDDEN + os.urandom(8).hex().encode()
    return found.group(1)


def _info(raw: Wire, section: str) -> bytes:
    raw.send_packed_command([_pack(("INFO", section))], check_health=False)
    return bytes(raw.read_response(disable_decoding=True))


def _reason(error: Exception, config: CacheConfig) -> str:
    if isinstance(error, ResponseError):
        return refusal(error).reason
    return f"{type(error).__name__}: {error} ({masked_url(config.redis_url or '')})"


Client = redis.Redis


def client(config: CacheConfig) -> Client:
    """A plain redis-py client of the same server, for diagnosis."""
    return redis.Redis(connection_pool=_source(config))
