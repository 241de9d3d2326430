"""Values to bytes and back: msgpack, compressed where that pays.

Only the payload is made here; `entry` puts codec id and flags into the header beside it. What comes back from
Redis is not trusted: decoding runs no code of the sender's, never unpacks more than `max_value_bytes`, and has
one way to fail, `Undecodable`, which the engine counts and treats as a miss.

Without `type` a value comes back as plain data: tuples and sets as lists, dataclasses and `msgspec.Struct` as
dicts, UUID, Decimal and naive datetimes as str. With `type` it comes back as that type or not at all.
"""

import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from stoker.cache.errors import ConfigError, ValueNotSerializable

MSGPACK = 1
"""The codec id of every payload that this version writes."""

COMPRESSED = 1
"""Flag bit 0: the payload is one zlib stream."""

_ZLIB_LEVEL = 1  # a writer waits for it, and level 6 takes several times as long for about the same size
_PLAIN: tuple[Any, ...] = (None, True, 0, 0.0, "", b"", [], {})  # each type that untyped decoding yields
_TYPE_REMEDY = "use plain types, a dataclass, TypedDict, NamedTuple or msgspec.Struct, or None for plain data"

_encode = msgspec.msgpack.Encoder().encode
decode_plain = msgspec.msgpack.Decoder().decode
"""The value of a payload without flags, as plain data."""


class Undecodable(Exception):
    """A payload that cannot be read, or not as the wanted type. It never leaves the cache."""


class Codec:
    """Encodes and decodes under the limits of one cache. Threads may share it.

    Args:
        compress_above: Compress encoded values of more than this many bytes; None never does.
        max_value_bytes: Largest encoded value before compression, in bytes.
    """

    __slots__ = ("_compress_above", "max_bytes")

    def __init__(self, *, compress_above: int | None, max_value_bytes: int) -> None:
        self._compress_above = max_value_bytes if compress_above is None else compress_above
        self.max_bytes = max_value_bytes

    def decoder(self, type: Any) -> Callable[[bytes], Any]:
        """Decodes payloads that are not compressed; fails as it will. `max_bytes` is for the caller to look at."""
        return decode_plain if type is None else _decoder(type).decode

    def encode(self, key: str, value: Any) -> tuple[int, bytes]:
        """The flags and the payload of a value; its codec id is `MSGPACK`.

        Raises:
            ValueNotSerializable: msgpack has no form for it, or it is larger than `max_value_bytes`.
        """
        try:
            payload = _encode(value)
        except Exception as exc:  # besides msgspec's own errors, whatever a property of the value raises
            raise ValueNotSerializable(key, type(value).__name__, _reason(exc)) from exc
        size = len(payload)
        if size > self.max_bytes:
            reason = f"its {size} bytes exceed max_value_bytes={self.max_bytes}"
            raise ValueNotSerializable(key, type(value).__name__, reason)
        if size > self._compress_above:
            smaller = zlib.compress(payload, _ZLIB_LEVEL)
            if len(smaller) < size:
                return COMPRESSED, smaller
        return 0, payload

    def encode_all(self, values: Sequence[Any]) -> list[bytes] | None:
        """The payloads of many values; None if one of them needs a look of its own, by `encode`."""
        try:
            payloads = [_encode(value) for value in values]
        except Exception:  # whichever it is, `encode` says so
            return None
        largest = max(map(len, payloads), default=0)
        return payloads if largest <= min(self._compress_above, self.max_bytes) else None

    def decode(self, codec_id: int, flags: int, payload: bytes | memoryview, type: Any = None) -> Any:
        """The value of a payload, as `type` if one is given.

        Raises:
            Undecodable: The codec or a flag is unknown, the payload is corrupt, truncated or larger than
                `max_value_bytes`, or the value does not fit `type`. Never anything else.
        """
        try:
            payload = self.unpacked(codec_id, flags, payload)
            return decode_plain(payload) if type is None else _decoder(type).decode(payload)
        except Undecodable:
            raise
        except Exception as exc:  # besides corrupt data, whatever the __post_init__ of `type` raises
            raise Undecodable(_reason(exc)) from exc

    def unpacked(self, codec_id: int, flags: int, payload: bytes | memoryview) -> bytes | memoryview:
        """The payload as it is without flags. Raises Undecodable as `decode`."""
        if codec_id != MSGPACK or flags & ~COMPRESSED:
            raise Undecodable(f"codec {codec_id} with flags {flags:#x} is not known to this version")
        if flags:
            try:
                return self._decompressed(payload)
            except zlib.error as exc:
                raise Undecodable(_reason(exc)) from exc
        if len(payload) > self.max_bytes:
            raise Undecodable(f"{len(payload)} bytes exceed max_value_bytes={self.max_bytes}")
        return payload

    def _decompressed(self, payload: bytes | memoryview) -> bytes:
        stream = zlib.decompressobj()
        plain = stream.decompress(payload, self.max_bytes + 1)  # one more tells "too large" from "fits"
        if len(plain) > self.max_bytes:
            raise Undecodable(f"decompresses to more than max_value_bytes={self.max_bytes}")
        if not stream.eof or stream.unused_data:
            raise Undecodable("the compressed stream is truncated, or something follows it")
        return plain


def check_type(type: Any) -> None:
    """Refuse a `type=` that no stored value could ever be decoded to: every read would be a miss.

    Raises:
        ConfigError: msgspec does not support it, or it holds a class that only its own code could rebuild.
    """
    try:
        _check_type(type)
    except TypeError:  # not hashable, hence not remembered
        _check_type.__wrapped__(type)


@lru_cache(maxsize=512)
def _check_type(type: Any) -> None:
    try:
        info = msgspec.inspect.type_info(type)
    except Exception as exc:  # besides msgspec's TypeError, NameError for a forward reference
        raise ConfigError("type", type, f"cannot be decoded ({_reason(exc)}); {_TYPE_REMEDY}") from exc
    for cls in _foreign_classes(info):
        if not _takes_plain_data(cls):
            raise ConfigError("type", type, f"{cls.__qualname__} cannot be decoded; {_TYPE_REMEDY}")


def _foreign_classes(info: msgspec.inspect.Type) -> list[Any]:
    """The classes within a type that msgspec has no form for. A type may contain itself."""
    found: list[Any] = []
    pending: list[Any] = [info]
    seen: set[int] = set()
    while pending:
        node = pending.pop()
        if isinstance(node, msgspec.inspect.CustomType):
            found.append(node.cls)
        elif isinstance(node, tuple):
            pending.extend(node)
        elif isinstance(node, msgspec.inspect.Type | msgspec.inspect.Field) and id(node) not in seen:
            seen.add(id(node))
            pending.extend(getattr(node, name) for name in node.__struct_fields__)
    return found


def _takes_plain_data(cls: Any) -> bool:
    try:
        return any(isinstance(plain, cls) for plain in _PLAIN)
    except TypeError:  # a Protocol that cannot be checked at run time
        return False


def _decoder(type: Any) -> "msgspec.msgpack.Decoder[Any]":
    try:
        return _cached_decoder(type)
    except TypeError:  # not hashable; or not supported, and then the same call says so once more
        return _cached_decoder.__wrapped__(type)


@lru_cache(maxsize=512)
def _cached_decoder(type: Any) -> "msgspec.msgpack.Decoder[Any]":
    # msgspec checks the hook's answer against the class: `object` and `Iterable` take plain data, most do not
    return msgspec.msgpack.Decoder(type, dec_hook=lambda _, plain: plain)


def _reason(exc: Exception) -> str:
    return str(exc) or exc.__class__.__name__
