"""What is said on a connection, without I/O: commands as bytes, scripts by their SHA, who the server is.

Only the transports use it: `transport` and `aio_transport` with its `pipe`.
"""

import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self, TypeVar, cast

import hiredis
import redis
from redis.connection import DefaultParser
from redis.exceptions import InvalidResponse, NoScriptError, ReadOnlyError, RedisError, ResponseError

from stoker.cache.errors import ConfigError
from stoker.cache.options import CacheConfig, masked_url
from stoker.cache.wire import Call, Command, refusal

P = TypeVar("P", bound="Pool")
log = logging.getLogger(__name__)
UNKNOWN_SERVER = b"-"
"""Stands for the server's id where it is hidden or the boot fence is off."""
_HIDDEN = b"hidden "
_IDLE_S = 0.05
_MORE = object()


class Line:
    """What is known of a connection.

    Attributes:
        server: The server process by the boot fence's name for it: its run_id, or UNKNOWN_SERVER.
        process: The process itself, also where the fence is off; unique to this connection where it is hidden.
        broken: Whether it must be closed: replies may be outstanding, or the server is no primary any more.
        used_at: When it was last asked something (monotonic seconds).
    """

    __slots__ = ("broken", "process", "server", "used_at")

    def __init__(self) -> None:
        self.server = self.process = b""
        self.broken = True  # until it is known who is at the other end
        self.used_at = 0.0

    @property
    def idle(self) -> bool:
        """Whether it was unused for so long that the server may have closed it."""
        return time.monotonic() - self.used_at > _IDLE_S

    def meet(self, replies: Sequence[Any], config: CacheConfig) -> None:
        """Take in the answers to `WHO`. Raises RedisError if this is a replica (rule 6)."""
        replication, server = replies
        self.process = process_of(_text(replication), _text(server))
        hidden = config.boot_fence == "off" or self.process.startswith(_HIDDEN)
        self.server = UNKNOWN_SERVER if hidden else self.process
        self.broken = False

    def packed(self, commands: Sequence[Command], *, whole: bool = False) -> bytes:
        """The commands as they are sent; scripts by their SHA, or `whole`."""
        if len(commands) == 1:
            command = commands[0]
            return command if type(command) is bytes else self._packed(command, whole)
        return b"".join([self._packed(command, whole) for command in commands])

    def _packed(self, command: Command, whole: bool) -> bytes:
        if isinstance(command, Call):
            if command.packed is not None and not whole:
                head, tail = command.packed
                return b"%b$%d\r\n%b\r\n%b" % (head, len(self.server), self.server, tail)
            script = command.script
            how: tuple[bytes, bytes] = (b"EVAL", script.source) if whole else (b"EVALSHA", script.sha)
            command = (*how, len(command.keys), *command.keys, self.server, *command.args)
        return command if isinstance(command, bytes) else _pack(command)


def any_error(replies: Sequence[Any]) -> bool:
    """Whether there is anything to be looked at in the replies before they are passed on."""
    for reply in replies:  # noqa: SIM110 - as a rule there is one, and a generator for it costs more than the rest
        if isinstance(reply, Exception):
            return True
    return False


def unknown_scripts(replies: Sequence[Any]) -> list[int]:
    """Which commands are to be sent once more, as the server does not know their script."""
    return [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]


def no_primary(replies: Sequence[Any]) -> bool:
    """Whether the server has become a replica: whoever connects next asks it who it is."""
    return any(isinstance(reply, ReadOnlyError) for reply in replies)


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
    packed: bytes = hiredis.pack_command(cast("Any", command))  # its annotation knows tuples of one item only
    return packed


WHO = ("INFO", "replication"), ("INFO", "server")
"""Asks a server who it is; the answers are for `Line.meet`."""


class Replies:
    """What comes on a connection: bytes are fed in, whole replies collected, errors as values.

    Attributes:
        faulty: Whether there was an error among what was collected, until that is taken back.
    """

    __slots__ = ("_next", "faulty", "feed", "left_over")

    def __init__(self) -> None:
        reader = hiredis.Reader(
            protocolError=InvalidResponse, replyError=DefaultParser.parse_error, notEnoughData=_MORE
        )
        self.feed: Callable[..., None] = reader.feed  # its annotation does not know bytearray
        self.left_over = reader.has_data  # whether something has come beyond what was collected
        self._next = reader.gets
        self.faulty = False

    def collect(self, into: list[Any], count: int) -> bool:
        """Append replies until there are `count`. Returns False where that takes more bytes.

        Raises:
            RedisError: It is no reply, or one that says that this connection cannot be used.
        """
        while len(into) < count:
            reply = self._next()
            kind = type(reply)
            if kind is list or kind is int or kind is bytes:  # as a rule
                into.append(reply)
                continue
            if reply is _MORE:
                return False
            if isinstance(reply, Exception):
                if isinstance(reply, redis.ConnectionError):  # the server is loading its data, for one
                    raise reply
                self.faulty = True
            if kind is not hiredis.PushNotification:  # which nobody here has asked for
                into.append(reply)
        return True


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
