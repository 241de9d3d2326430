"""What is said on a connection, without I/O: commands as bytes, scripts by their SHA, who the server is.

A talk is a generator that yields packed commands, to be written at once, and is sent one reply each, errors as values.
`transport` and `aio_transport` hold it on their connections.
"""

import logging
import os
import re
import time
from collections.abc import Generator, Sequence
from typing import Any, Protocol, Self, TypeVar, cast

import hiredis
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError

from stoker.cache.errors import ConfigError
from stoker.cache.options import CacheConfig, masked_url
from stoker.cache.wire import Call, Command, Exchange, refusal

P = TypeVar("P", bound="Pool")
T = TypeVar("T")
Talk = Generator[Sequence[bytes], list[Any], T]
log = logging.getLogger(__name__)
UNKNOWN_SERVER = b"-"
"""Stands for the server's id where it is hidden or the boot fence is off."""
_HIDDEN = b"hidden "
_IDLE_S = 0.05


class Line:
    """What is known of a connection.

    Attributes:
        server: The server process by the boot fence's name for it: its run_id, or UNKNOWN_SERVER.
        process: The process itself, also where the fence is off; unique to this connection where it is hidden.
        broken: Whether it must be closed: replies may be outstanding, or the server is no primary any more.
    """

    __slots__ = ("_used_at", "broken", "process", "server")

    def __init__(self) -> None:
        self.server = self.process = b""
        self.broken = True  # until it is known who is at the other end
        self._used_at = 0.0

    @property
    def idle(self) -> bool:
        """Whether it was unused for so long that the server may have closed it."""
        return time.monotonic() - self._used_at > _IDLE_S

    def meet(self, config: CacheConfig) -> Talk[None]:
        """Learn which server process this is. Raises RedisError if it is a replica (rule 6)."""
        replication, server = yield [_pack(("INFO", "replication")), _pack(("INFO", "server"))]
        self.process = process_of(_text(replication), _text(server))
        hidden = config.boot_fence == "off" or self.process.startswith(_HIDDEN)
        self.server = UNKNOWN_SERVER if hidden else self.process
        self._rested()

    def ask(self, commands: Exchange) -> Talk[list[Any]]:
        """Send commands; those whose script the server does not know once more, with it."""
        self.broken = True  # until all replies are read
        replies = yield [self._packed(command, by_sha=True) for command in commands]
        unknown = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:
            again = yield [self._packed(commands[i], by_sha=False) for i in unknown]
            for i, reply in zip(unknown, again, strict=True):
                replies[i] = reply
        self._rested()
        # A server that has become a replica: whoever connects next asks it who it is.
        self.broken = any(isinstance(reply, ReadOnlyError) for reply in replies)
        return replies

    def _rested(self) -> None:
        self.broken = False
        self._used_at = time.monotonic()

    def _packed(self, command: Command, *, by_sha: bool) -> bytes:
        if isinstance(command, Call):
            script = command.script
            how: tuple[bytes, bytes] = (b"EVALSHA", script.sha) if by_sha else (b"EVAL", script.source)
            command = (*how, len(command.keys), *command.keys, self.server, *command.args)
        return _pack(command)


def process_of(replication: bytes, server: bytes) -> bytes:
    """The id of a server process by its INFO; it must be a primary."""
    if b"role:slave" in replication:
        raise RedisError("this server is a replica; connect to the primary")
    found = re.search(rb"run_id:([0-9a-f]{16})", server)
    if found is None:
        log.warning("the server hides its run_id: a restart from an old dump is noticed late or not at all")
        return _HIDDEN + os.urandom(8).hex().encode()
    return found.group(1)


def _text(reply: Any) -> bytes:
    if isinstance(reply, Exception):
        raise reply
    return bytes(reply)


def _pack(command: tuple[bytes | str | int, ...]) -> bytes:
    return bytes(hiredis.pack_command(cast("Any", command)))  # its annotation knows tuples of one item only


def reason(error: Exception, config: CacheConfig) -> str:
    """Why the server could not be asked, without its password."""
    if isinstance(error, ResponseError):
        return refusal(error).reason
    what = str(error) or "no answer in time"
    return f"{type(error).__name__}: {what} ({masked_url(config.redis_url or '')})"


class Pool(Protocol):
    """redis-py's pool of connections, of which only the making of one is used."""

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self: ...


def pool_of(kind: type[P], config: CacheConfig, **options: Any) -> P:
    """What makes connections to the configured server; `options` are those in which redis-py's two kinds differ.

    Raises:
        ConfigError: redis-py does not understand the URL.
    """
    try:
        return kind.from_url(
            config.redis_url or "",
            protocol=3,
            socket_connect_timeout=config.connect_timeout,
            max_connections=2**31,
            **options,
        )
    except (ValueError, RedisError) as error:
        raise ConfigError("redis_url", masked_url(config.redis_url or ""), str(error)) from error


def all_busy(config: CacheConfig) -> str:
    """Why a caller got no connection."""
    return (
        f"all {config.max_connections} connections were busy for {config.timeout:g} s; raise max_connections"
    )
