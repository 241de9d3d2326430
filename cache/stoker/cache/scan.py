"""Walks the entries of a shard in pages, looks at their first bytes, and unlinks some. For `sweep` and `evict`."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from stoker.cache import entry, scripts
from stoker.cache.entry import Meta
from stoker.cache.protocol import Shard
from stoker.cache.wire import Answer, Call, Exchange, Operation, refusal

T = TypeVar("T")
_HEAD_BYTES = entry.HEADER_BYTES + 256
"""Read of each entry at first: the header and, nearly always, all tags."""


class Link(Protocol):
    """A shard and the way to its server."""

    shard: Shard

    def exchange(self, commands: Exchange) -> Answer: ...

    def run(self, operation: Operation[T]) -> T: ...


class Seen(NamedTuple):
    """An entry on a page: its name in Redis, whose it is, what its header says, its stamp, its size in bytes."""

    name: bytes
    tenant: str
    key: str
    meta: Meta
    stamp: bytes
    size: int


class Page(NamedTuple):
    """Names of entries, the cursor of the next page (b"0" at the end), and the server process that was scanned."""

    names: list[tuple[bytes, str, str]]
    cursor: bytes
    process: bytes


def page(link: Link, cursor: str, batch: int) -> Page:
    """One page of about `batch` keys. Anything in the name space that is not an entry's name is left out."""
    answer = link.exchange((("SCAN", cursor, "MATCH", link.shard.keys.scan_pattern, "COUNT", batch),))
    following, names = answer.reply()
    found = []
    for name in names:
        try:
            found.append((name, *link.shard.keys.split_entry(name.decode())))
        except UnicodeDecodeError:
            continue  # not written by us
    return Page(found, following, answer.process)


def look(link: Link, names: Sequence[tuple[bytes, str, str]]) -> list[Seen]:
    """Read the headers and tags of the entries; those that are gone or not readable are left out."""
    if not names:
        return []
    heads = _starts(link, [(name, _HEAD_BYTES) for name, _, _ in names])
    cut = [
        i
        for i, head in enumerate(heads)
        if entry.HEADER_BYTES + entry.tags_len(head) > len(head) >= _HEAD_BYTES
    ]
    if cut:
        longer = [(names[i][0], entry.HEADER_BYTES + entry.tags_len(heads[i])) for i in cut]
        for i, head in zip(cut, _starts(link, longer), strict=True):
            heads[i] = head
    seen = []
    for (name, tenant, key), head in zip(names, heads, strict=True):
        meta = entry.unpack(head, whole=False)
        if meta is not None:
            seen.append(
                Seen(
                    name, tenant, key, meta, head[entry.STAMP], meta.payload_at + meta.payload_len + len(name)
                )
            )
    return seen


def _starts(link: Link, wanted: Sequence[tuple[bytes, int]]) -> list[bytes]:
    """The first bytes of each entry, read without making it look used (Redis 7.0 cannot, and answers with an error)."""
    reads = (("GETRANGE", name, 0, size - 1) for name, size in wanted)
    answer = link.exchange((("CLIENT", "NO-TOUCH", "ON"), *reads, ("CLIENT", "NO-TOUCH", "OFF")))
    return [_bytes(reply) for reply in answer.replies[1:-1]]


def _bytes(reply: Any) -> bytes:
    """Only what is no string may be passed over: bans must not retire over an entry that could not be read."""
    if isinstance(reply, bytes):
        return reply
    if "WRONGTYPE" in str(reply):
        return b""
    raise refusal(reply)


def drop(link: Link, doomed: Sequence[Seen]) -> int:
    """Unlink the entries that still are what was seen; returns how many were."""
    if not doomed:
        return 0
    names = tuple(seen.name for seen in doomed)
    args = (link.shard.map.digest, *(seen.stamp for seen in doomed))
    return int(link.exchange((Call(scripts.DROP, names, args),)).reply())


def dead(shard: Shard, seen: Seen) -> bool:
    """Whether no reader may be served the entry any more."""
    return shard.view.kills(
        seen.tenant, seen.key, seen.meta.tags, entry.Stamp(seen.meta.incarnation, seen.meta.seq)
    )
