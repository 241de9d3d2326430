"""Walks the entries of a cache in pages, looks at their first bytes, and unlinks some. For `sweep` and `evict`."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from stoker.cache import entry, scripts
from stoker.cache.entry import Meta
from stoker.cache.keys import EntryNames
from stoker.cache.protocol import Shard
from stoker.cache.quotas import Quotas
from stoker.cache.wire import Call, Operation, refusal

HEAD_BYTES = entry.HEADER_BYTES + 256
"""Read of each entry at first: the header and, nearly always, all tags."""
AT_ONCE = 128
"""Entries that one round trip reads or unlinks: who reads meanwhile waits behind it."""
_UNREADABLE = Meta(0, 0, b"", 0, 0, 0, 0, (), 0, 0)
"""Stands for a header of another version: nobody knows its tags, so a ban that retired could have been its."""


class Link(Protocol):
    """The shards of a cache, all on one server."""

    shards: list[Shard]
    names: EntryNames

    def quotas(self) -> Operation[Quotas]:
        """What tenants may have on this server."""
        ...


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

    @property
    def readable(self) -> bool:
        """Whether its header is one of this version."""
        return self.meta is not _UNREADABLE

    def dead(self) -> bool:
        """Whether no reader may be served the entry any more."""
        stamp = entry.Stamp(self.meta.incarnation, self.meta.seq)
        return self.name.shard.view.kills(self.name.tenant, self.name.key, self.meta.tags, stamp)


class Old(NamedTuple):
    """Entries of this incarnation that are older than a ban: by what their encoded tenant, ':' and key begin with."""

    incarnation: bytes
    bans: Sequence[tuple[str, int]]


class Dropped(NamedTuple):
    """How many entries were unlinked, and their size in bytes."""

    entries: int = 0
    bytes: int = 0


class Page(NamedTuple):
    """Keys that look like entries, the cursor of the next page (b"0" at the end), and the server process scanned.

    A row of `pages` is one too. `names` is how many there were, those that were `dropped` at once included; `took` the
    seconds that the server was at work on it, where that is known.
    """

    raws: list[bytes]
    cursor: bytes
    process: bytes
    names: int
    dropped: Dropped = Dropped()
    took: float = 0.0
    pages: int = 1


def page(link: Link, cursor: str, batch: int, begin: str = "") -> Operation[Page]:
    """One page of about `batch` keys, those left out whose encoded tenant, ':' and key do not begin so."""
    answer = yield (("SCAN", cursor, "MATCH", link.names.going_on(begin), "COUNT", batch),)
    following, raws = answer.reply()
    return Page(raws, following, answer.process, len(raws))


def drop_pages(link: Link, cursor: str, batch: int, begin: str, old: Old, most: int) -> Operation[Page]:
    """Up to so many pages of a single shard in a row: what is old goes; what is left to be looked at ends the row."""
    [shard] = link.shards
    bans = [word for prefix, seq in old.bans for word in (shard.keys.entry_prefix + prefix, seq)]
    judged = (link.names.going_on(begin), batch, old.incarnation, *bans)
    row = Page([], cursor.encode(), b"", 0, pages=0)
    for _ in range(most):
        args = (shard.digest, row.cursor, *judged)
        answer = yield (
            ("CLIENT", "NO-TOUCH", "ON"),
            Call(scripts.DROP_PAGE, (shard.keys.ctl,), args),
            ("CLIENT", "NO-TOUCH", "OFF"),
        )
        following, names, entries, size, others, took_us = answer.reply(1)
        gone = Dropped(row.dropped.entries + entries, row.dropped.bytes + size)
        took = row.took + took_us / 1e6
        row = Page(others, following, answer.process, row.names + names, gone, took, row.pages + 1)
        if others or following == b"0":
            break
    return row


def parsed(link: Link, raws: Iterable[bytes]) -> list[Name]:
    """The names of entries; anything in the name space that is none is left out."""
    return [name for name in (name_of(link, raw) for raw in raws) if name is not None]


def name_of(link: Link, raw: bytes) -> Name | None:
    """The entry of that name; None if it is no entry's name."""
    parts = link.names.split(raw)
    if parts is None or parts[0] >= len(link.shards):
        return None
    return Name(raw, parts[0], link.shards[parts[0]], parts[1], parts[2])


def count(link: Link, batch: int) -> Operation[dict[int, int]]:
    """How many entries each shard has, by their names: a walk over the whole server."""
    counts = dict.fromkeys(range(len(link.shards)), 0)
    cursor = b"0"
    while True:
        found = yield from page(link, cursor.decode(), batch)
        for name in parsed(link, found.raws):
            counts[name.number] += 1
        cursor = found.cursor
        if cursor == b"0":
            return counts


def drop_strays(
    names: EntryNames, num_shards: int, cursor: str, batch: int
) -> Operation[tuple[str, int, int]]:
    """Unlink, of one page of a server, what is in shards that are no more.

    Nobody reads there, and should they come back after this look, what is lost is hits.

    Returns:
        The cursor of the next page ("0" at the end), keys looked at, and keys unlinked.
    """
    following, raws = (yield (("SCAN", cursor, "MATCH", names.every, "COUNT", batch),)).reply()
    strays = [raw for raw in raws if (shard := names.shard_in(raw)) is not None and shard >= num_shards]
    gone = 0
    if strays:
        answer = yield tuple(("UNLINK", raw) for raw in strays)
        gone = sum(int(answer.reply(i)) for i in range(len(strays)))
    return following.decode(), len(raws), gone


def look(names: Sequence[Name]) -> Operation[list[Seen]]:
    """Read the headers and tags of the entries that are still there. One that cannot be read counts as dead."""
    if not names:
        return []
    heads = yield from _starts([(name.raw, HEAD_BYTES) for name in names])
    cut = [
        i
        for i, head in enumerate(heads)
        if entry.HEADER_BYTES + entry.tags_len(head) > len(head) >= HEAD_BYTES
    ]
    if cut:
        longer = [(names[i].raw, entry.HEADER_BYTES + entry.tags_len(heads[i])) for i in cut]
        for i, head in zip(cut, (yield from _starts(longer)), strict=True):
            heads[i] = head
    looked = (seen(name, head) for name, head in zip(names, heads, strict=True))
    return [one for one in looked if one is not None]


def seen(name: Name, head: bytes) -> Seen | None:
    """What the first bytes of an entry say; None if there are none."""
    if not head:
        return None
    meta = entry.unpack(head, whole=False) or _UNREADABLE
    size = max(len(head), meta.payload_at + meta.payload_len) + len(name.raw)
    return Seen(name, meta, head[entry.STAMP], size)


def _starts(wanted: Sequence[tuple[bytes, int]]) -> Operation[list[bytes]]:
    """The first bytes of each entry, read without making it look used (Redis 7.0 cannot, and answers with an error)."""
    starts: list[bytes] = []
    for first in range(0, len(wanted), AT_ONCE):
        reads = (("GETRANGE", name, 0, size - 1) for name, size in wanted[first : first + AT_ONCE])
        answer = yield (("CLIENT", "NO-TOUCH", "ON"), *reads, ("CLIENT", "NO-TOUCH", "OFF"))
        starts += map(_bytes, answer.replies[1:-1])
    return starts


def _bytes(reply: Any) -> bytes:
    """Only what is no string may be passed over: bans must not retire over an entry that could not be read."""
    if isinstance(reply, bytes):
        return reply
    if "WRONGTYPE" in str(reply):
        return b""
    raise refusal(reply)


def drop(doomed: Sequence[Seen]) -> Operation[Dropped]:
    """Unlink the entries that still are what was seen."""
    gone = 0
    for first in range(0, len(doomed), AT_ONCE):
        by_shard: dict[int, list[Seen]] = {}
        for seen in doomed[first : first + AT_ONCE]:
            by_shard.setdefault(id(seen.name.shard), []).append(seen)
        answer = yield tuple(_drop_call(group) for group in by_shard.values())
        gone += sum(int(answer.reply(i)) for i in range(len(by_shard)))
    return Dropped(gone, sum(seen.size for seen in doomed))


def _drop_call(group: Sequence[Seen]) -> Call:
    names = tuple(seen.name.raw for seen in group)
    return Call(scripts.DROP, names, (group[0].name.shard.digest, *(seen.stamp for seen in group)))
