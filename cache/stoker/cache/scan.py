"""Walks the entries of a cache in pages, looks at their first bytes, and unlinks some. For `sweep` and `evict`."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from stoker.cache import entry, scripts
from stoker.cache.entry import Meta
from stoker.cache.keys import EntryNames
from stoker.cache.protocol import Shard
from stoker.cache.wire import Answer, Call, Exchange, Operation, refusal

T = TypeVar("T")
_HEAD_BYTES = entry.HEADER_BYTES + 256
"""Read of each entry at first: the header and, nearly always, all tags."""

_UNREADABLE = Meta(0, 0, b"", 0, 0, 0, 0, (), 0, 0)
"""Stands for a header of another version: nobody knows its tags, so a ban that retired could have been its."""


class Link(Protocol):
    """The shards of a cache and the way to their server."""

    shards: list[Shard]
    names: EntryNames

    def exchange(self, commands: Exchange) -> Answer: ...

    def run(self, operation: Operation[T]) -> T: ...


class Name(NamedTuple):
    """An entry on a page, by what its name says."""

    raw: bytes
    number: int
    shard: Shard
    tenant: str
    key: str


class Seen(NamedTuple):
    """An entry that was looked at: what its header says, its stamp, its size in bytes."""

    name: Name
    meta: Meta
    stamp: bytes
    size: int

    def dead(self) -> bool:
        """Whether no reader may be served the entry any more."""
        stamp = entry.Stamp(self.meta.incarnation, self.meta.seq)
        return self.name.shard.view.kills(self.name.tenant, self.name.key, self.meta.tags, stamp)


class Page(NamedTuple):
    """Names of entries, the cursor of the next page (b"0" at the end), and the server process that was scanned."""

    names: list[Name]
    cursor: bytes
    process: bytes


def page(link: Link, cursor: str, batch: int) -> Page:
    """One page of about `batch` keys. Anything in the name space that is not an entry's name is left out."""
    answer = link.exchange((("SCAN", cursor, "MATCH", link.names.pattern, "COUNT", batch),))
    following, raws = answer.reply()
    found = []
    for raw in raws:
        parts = link.names.split(raw)
        if parts is not None and parts[0] < len(link.shards):
            found.append(Name(raw, parts[0], link.shards[parts[0]], parts[1], parts[2]))
    return Page(found, following, answer.process)


def pages(link: Link, batch: int) -> Iterator[Page]:
    """All pages, one after the other; ends as SCAN does."""
    cursor = b"0"
    while True:
        found = page(link, cursor.decode(), batch)
        yield found
        cursor = found.cursor
        if cursor == b"0":
            return


def look(link: Link, names: Sequence[Name]) -> list[Seen]:
    """Read the headers and tags of the entries that are still there. One that cannot be read counts as dead."""
    if not names:
        return []
    heads = _starts(link, [(name.raw, _HEAD_BYTES) for name in names])
    cut = [
        i
        for i, head in enumerate(heads)
        if entry.HEADER_BYTES + entry.tags_len(head) > len(head) >= _HEAD_BYTES
    ]
    if cut:
        longer = [(names[i].raw, entry.HEADER_BYTES + entry.tags_len(heads[i])) for i in cut]
        for i, head in zip(cut, _starts(link, longer), strict=True):
            heads[i] = head
    seen = []
    for name, head in zip(names, heads, strict=True):
        if head:
            meta = entry.unpack(head, whole=False) or _UNREADABLE
            size = max(len(head), meta.payload_at + meta.payload_len) + len(name.raw)
            seen.append(Seen(name, meta, head[entry.STAMP], size))
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
    by_shard: dict[int, list[Seen]] = {}
    for seen in doomed:
        by_shard.setdefault(id(seen.name.shard), []).append(seen)
    if not by_shard:
        return 0
    answer = link.exchange(tuple(_drop_call(group) for group in by_shard.values()))
    return sum(int(answer.reply(i)) for i in range(len(by_shard)))


def _drop_call(group: Sequence[Seen]) -> Call:
    names = tuple(seen.name.raw for seen in group)
    return Call(scripts.DROP, names, (group[0].name.shard.digest, *(seen.stamp for seen in group)))
