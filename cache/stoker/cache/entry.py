"""What one stored value is in Redis: a fixed header, a tag block, a payload.

Nothing here does I/O or knows what is fresh; `bans` says what is dead and `codec` what the payload means. The header
is little-endian and 56 bytes long:

    offset  size  field        unit and meaning
         0     2  magic        b"Sk"
         2     1  version      1
         3     1  codec        how the payload is encoded, see `codec`
         4     2  flags        bit 0: the payload is compressed; bits 14, 15: when it is evicted, see `worth.Turn`
         6     2  tags_len     bytes of the tag block: UTF-8 tags joined by NUL
         8     8  incarnation  of the ban log that the stamp belongs to
        16     8  seq          position in that ban log, read before the value's load began
        24     8  uid          random: tells two fills with the same stamp apart
        32     8  soft_ms      Unix time from which the entry should be refreshed; 0: never
        40     8  hard_ms      Unix time at which Redis drops it; 0: never
        48     4  load_us      what the load cost; the most is 2**32 - 1
        52     4  payload_len  bytes of the payload, so that a cut-off entry is seen
"""

from collections.abc import Sequence
from itertools import groupby
from struct import Struct, error
from typing import NamedTuple

from msgspec import Struct as Record

from stoker.cache.chance import CHANCE

_HEADER = Struct("<2sBBHH8sQQQQII")
HEADER_BYTES = _HEADER.size
_GLANCE, _OUTLINE, _COMMON = Struct("<24s8xQQII"), Struct("<24s8xQ12xI"), Struct("<6sH8sQ")
"""The header again, without the uid: what most entries of one answer have in common in one piece; less of it; and that
piece."""
_pack = _HEADER.pack
_random_bits = CHANCE.getrandbits
_pack_size = Struct("<I").pack
_MOST_US = 2**32 - 1
MAGIC = b"Sk"
VERSION = 1
STAMP = slice(8, 32)
"""Incarnation, seq and uid: what a conditional delete compares."""
STAMP_RANGE = (STAMP.start, STAMP.stop - 1)
KEEP_SHIFT = 14
_FLAGS = 2**KEEP_SHIFT - 1
MAX_SEQ = 2**53 - 1
"""Seqs are scores of a sorted set, that is, doubles; above this they would lose count."""


class Stamp(NamedTuple):
    """A position in one life of a shard's ban log, read before a load began."""

    incarnation: bytes
    seq: int


class Meta(Record, frozen=True, gc=False):
    """What an entry's header and tag block say.

    Times are Unix milliseconds (0: never), `load_us` microseconds, `payload_at` and `payload_len` bytes; `keep` is a
    `worth.Turn`, and no part of `flags` here.
    """

    codec: int
    flags: int
    incarnation: bytes
    seq: int
    soft_ms: int
    hard_ms: int
    load_us: int
    tags: tuple[str, ...]
    payload_at: int
    payload_len: int
    keep: int = 0


def pack(
    stamp: Stamp,
    payload: bytes,
    codec: int,
    flags: int,
    tags: tuple[str, ...],
    soft_ms: int,
    hard_ms: int,
    load_us: int,
    keep: int = 0,
) -> bytes:
    """The bytes of an entry."""
    tag_block = "\0".join(tags).encode() if tags else b""
    header = _pack(
        MAGIC,
        VERSION,
        codec,
        flags | keep << KEEP_SHIFT,
        len(tag_block),
        stamp.incarnation,
        stamp.seq,
        _random_bits(64),
        soft_ms,
        hard_ms,
        load_us if 0 <= load_us <= _MOST_US else _MOST_US * (load_us > 0),
        len(payload),
    )
    return header + tag_block + payload


def pack_all(
    stamp: Stamp,
    payloads: Sequence[bytes],
    codec: int,
    kept: Sequence[tuple[int, int, tuple[str, ...]]],
    load_us: int,
    keep: int,
) -> list[bytes]:
    """As `pack`, of many values of different keys, not compressed, that cost the same and are evicted alike.

    Args:
        kept: soft_ms, hard_ms and tags of each; what is equal in a row costs less.
    """
    uid = _random_bits(64)  # one for all: it tells apart what is stored for one key
    load_us = min(load_us, _MOST_US)
    blobs: list[bytes] = []
    for (soft_ms, hard_ms, tags), same in groupby(kept):
        now = payloads[len(blobs) : len(blobs) + len(list(same))]
        tag_block = "\0".join(tags).encode() if tags else b""
        fixed = (MAGIC, VERSION, codec, keep << KEEP_SHIFT, len(tag_block), *stamp, uid, soft_ms, hard_ms)
        head = _pack(*fixed, load_us, 0)[:-4]
        heads = {size: head + _pack_size(size) + tag_block for size in set(map(len, now))}
        blobs += [heads[len(payload)] + payload for payload in now]
    return blobs


glance = _GLANCE.unpack_from
"""What entries of one kind and stamp have in common (see `common`), soft_ms, hard_ms, load_us and payload_len.

Raises `error` if the header is short; whatever else is wrong with the entry is for `unpack` to find.
"""
outline = _OUTLINE.unpack_from
"""Of the same the first, soft_ms and payload_len."""
common = _COMMON.unpack
"""The first six bytes of an entry, tags_len, incarnation and seq."""


def beginning(codec: int, flags: int) -> bytes:
    """The first six bytes of an entry of this version."""
    return MAGIC + bytes((VERSION, codec)) + flags.to_bytes(2, "little")


def stamped(blob: bytes, stamp: Stamp) -> bytes:
    """The entry with another stamp. The `set` script writes the seq once more where that has changed."""
    return b"%b%b%b%b" % (blob[:8], stamp.incarnation, stamp.seq.to_bytes(8, "little"), blob[24:])


def unpack(blob: bytes, *, whole: bool = True) -> Meta | None:
    """Read an entry's header and tags, or None if they are short, corrupt or of an unknown version.

    A seq above `MAX_SEQ` is corrupt too: no ban would ever kill such an entry.
    `whole=False` is for the first bytes of an entry: its payload is not there to be measured.
    """
    try:
        magic, version, codec, flags, tags_len, incarnation, seq, _, soft_ms, hard_ms, load_us, size = (
            _HEADER.unpack_from(blob)
        )
    except error:
        return None
    payload_at = HEADER_BYTES + tags_len
    if magic != MAGIC or version != VERSION or seq > MAX_SEQ or len(blob) < payload_at:
        return None
    if whole and len(blob) != payload_at + size:
        return None
    tags: tuple[str, ...] = ()
    if tags_len:
        try:
            tags = tuple(blob[HEADER_BYTES:payload_at].decode().split("\0"))
        except UnicodeDecodeError:
            return None
    keep = flags >> KEEP_SHIFT
    return Meta(
        codec, flags & _FLAGS, incarnation, seq, soft_ms, hard_ms, load_us, tags, payload_at, size, keep
    )


def tags_len(blob: bytes) -> int:
    """Bytes of the tag block that a (possibly cut-off) entry announces; 0 if its header is not readable."""
    return int.from_bytes(blob[6:8], "little") if len(blob) >= HEADER_BYTES else 0
