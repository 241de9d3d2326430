"""Walks the entries of a shard in pages, looks at their first bytes, and unlinks some. For `sweep` and `evict`."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeVar

from stoker.cache import entry, scripts
from stoker.cache.entry import Meta
from stoker.cache.protocol import Answer, Call, Exchange, Operation, Shard

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
    """Names of entries, the cursor of the next page (b"0" at the end), and the server that was scanned."""

    names: list[tuple[bytes, str, str]]
    cursor: bytes
    server: bytes


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
    return Page(found, following, answer.server)


def look(link: Link, names: Sequence[tuple[bytes, str, str]]) -> list[Seen]:
    """Read the headers and tags of the entries; those that are gone or not readable are left out."""
    if not names:
        return []
    answer = link.exchange(tuple(("GETRANGE", name, 0, _HEAD_BYTES - 1) for name, _, _ in names))
    heads = [reply if isinstance(reply, bytes) else b"" for reply in answer.replies]
    cut = [
        i
        for i, head in enumerate(heads)
        if entry.HEADER_BYTES + entry.tags_len(head) > len(head) >= _HEAD_BYTES
    ]
    if cut:
        ends = [entry.HEADER_BYTES + entry.tags_len(heads[i]) - 1 for i in cut]
        answer = link.exchange(
            tuple(("GETRANGE", names[i][0], 0, end) for i, end in zip(cut, ends, strict=True))
        )
        for i, reply in zip(cut, answer.replies, strict=True):
            heads[i] = reply if isinstance(reply, bytes) else b""
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
