"""Many absent keys at once, for warming: stored by a few scripts in one round trip, without a lease for each of them.

A batch notes itself in a list of its shard, `writes`, before it is loaded. Whoever deletes or sets an entry meanwhile
notes that after it, if there is such a list. Then all is stored that was not noted; nothing, if the batch's own note is
gone. So a load under way brings back nothing that was deleted, as by a lease (rule 2). But nobody waits for it either:
a reader who misses one of the keys loads it too, so batches are for loads that are soon over.

Operations on one shard, as those of `protocol`, but in columns, one of names, one of values and so on: an object for
each key would cost more than all else. What does not go smoothly is stored key by key.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from msgspec import Struct

from stoker.cache import entry, scripts
from stoker.cache.codec import MSGPACK
from stoker.cache.entry import Stamp
from stoker.cache.protocol import Chunk, Filling, Lease, Name, Shard, new_secret
from stoker.cache.wire import Call, Command, Operation, not_known
from stoker.cache.worth import Turn

PAGE = 128
"""Most keys of one command, so that none holds the server for long."""


class Batch(Struct, frozen=True, gc=False):
    """Permission to fill many keys of a shard; iterating makes the leases one by one.

    Attributes:
        shard: Where its keys live.
        entries: What they are called on the server.
        place: Of the batch among the shard's writes.
    """

    shard: Shard
    names: Sequence[Name]
    entries: Sequence[bytes]
    secret: bytes
    stamp: Stamp
    place: int

    def __iter__(self) -> Iterator[Lease]:
        return (self._lease(*name) for name in self.names)

    def __len__(self) -> int:
        return len(self.names)

    def part(self, keys: slice) -> "Batch":
        """Permission to fill some of its keys."""
        return Batch(self.shard, self.names[keys], self.entries[keys], self.secret, self.stamp, self.place)

    def _lease(self, tenant_id: str | None, key: str) -> Lease:
        return Lease(tenant_id, key, self.secret, self.stamp, self.place)


class BatchFill(NamedTuple):
    """For each key of a batch, in order, its value, its lifetimes (ttl, soft ttl) in ms, 0 for never, and its tags.

    What each cost, and when it is evicted, is the same for all.
    """

    batch: Batch
    values: Sequence[Any]
    lifetimes: Sequence[tuple[int, int]]
    tags: Sequence[tuple[str, ...]]
    load_us: int
    turn: Turn


def begin(shard: Shard, names: Sequence[Name], lease_ms: int) -> Operation[Batch | None]:
    """Begin a batch of keys of which none is stored; None if that is not so.

    Rule 1: it is noted, and the control record is taken, before any load begins.
    """
    if not shard.takes_batches:
        return None
    secret = new_secret()
    entries = shard.keys.entries_of(names)
    call = Call(scripts.BEGIN, (shard.keys.ctl, shard.keys.writes), (shard.digest, secret, lease_ms))
    look: list[Command] = [("EXISTS", *entries[page]) for page in _pages(len(names))]
    known = shard.view
    answer = yield (call, *look)
    begun, *there = answer.replies
    if isinstance(begun, Exception) or any(there):
        shard.takes_batches = not any(map(not_known, answer.replies))
        return None
    place, raw = begun
    view = known
    if not known.current(raw, answer.server):
        view = yield from shard.sync(raw, answer.server, known)
    return Batch(shard, names, entries, secret, view.stamp, place)


def fill(values: BatchFill, payloads: Sequence[bytes], now_ms: int) -> Operation[list[bool]]:
    """Store an entry with its payload for each key of the batch; tells which were stored and live on."""
    batch, shard = values.batch, values.batch.shard
    lease = next(iter(batch))
    kept = [
        (soft_ms and now_ms + soft_ms, hard_ms and now_ms + hard_ms, tags)
        for (hard_ms, soft_ms), tags in zip(values.lifetimes, values.tags, strict=True)
    ]
    blobs = entry.pack_all(batch.stamp, payloads, MSGPACK, kept, values.load_us, values.turn)
    ttls_ms = [hard_ms for hard_ms, _ in values.lifetimes]

    def chunk(page: slice) -> Chunk:
        columns = batch.entries[page], blobs[page], ttls_ms[page]
        call = shard.fill_batch_call(lease, *columns)
        return Chunk(call, len(columns[0]), batch.stamp, lambda: fillings(page))

    def fillings(page: slice) -> list[Filling]:
        parts = zip(list(batch)[page], blobs[page], ttls_ms[page], values.tags[page], strict=True)
        return [Filling(*part) for part in parts]

    return (yield from shard.filled([chunk(page) for page in _pages(len(batch))]))


def _pages(size: int) -> list[slice]:
    return [slice(first, first + PAGE) for first in range(0, size, PAGE)]
