"""Many absent keys at once, for warming: leased by a few commands, filled by a few scripts, one round trip each.

Operations on one shard, as those of `protocol`, but in columns, one of names, one of values and so on: an object for
each key would cost more than all else. What does not go smoothly goes key by key.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from msgspec import Struct

from stoker.cache import entry
from stoker.cache.codec import MSGPACK
from stoker.cache.entry import Stamp
from stoker.cache.protocol import Chunk, Filling, Lease, Name, Shard, new_secret
from stoker.cache.wire import Command, Operation, not_known
from stoker.cache.worth import Turn

PAGE = 128
"""Most keys of one command, so that none holds the server for long."""


class Batch(Struct, frozen=True, gc=False):
    """Leases that were taken together: one token and one stamp for all; iterating makes them one by one.

    Attributes:
        shard: Where they were taken.
        entries, leases: What they are called on the server.
    """

    shard: Shard
    names: Sequence[Name]
    entries: Sequence[bytes]
    leases: Sequence[bytes]
    secret: bytes
    stamp: Stamp

    def __iter__(self) -> Iterator[Lease]:
        return (Lease(tenant_id, key, self.secret, self.stamp) for tenant_id, key in self.names)

    def __len__(self) -> int:
        return len(self.names)


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


def lease_absent(shard: Shard, names: Sequence[Name], lease_ms: int) -> Operation[Batch | None]:
    """Lease keys of which none is stored and none is leased; None, and nothing is leased, if that is not so.

    Rule 1: leases and control record are taken before any load begins.
    """
    if not shard.sets_together:
        return None
    secret = new_secret()
    entries, leases = shard.keys.entries_and_leases(names)
    pages = _pages(len(names))
    known = shard.view
    take: list[Command] = [_lease_call(leases[page], secret, lease_ms) for page in pages]
    look: list[Command] = [("EXISTS", *entries[page]) for page in pages]
    answer = yield (*take, *look, ("GET", shard.keys.ctl))
    took, there = answer.replies[: len(pages)], answer.replies[len(pages) : -1]
    batch = Batch(shard, names, entries, leases, secret, known.stamp)
    if took.count(1) < len(pages) or there.count(0) < len(pages):
        shard.sets_together = not any(not_known(reply) for reply in (*took, *there))
        taken = [
            lease
            for page, reply in zip(pages, took, strict=True)
            if reply == 1
            for lease in list(batch)[page]
        ]
        if taken:
            yield from shard.release(taken)
        return None
    raw = answer.reply()
    view = known
    if not known.current(raw, answer.server):
        view = yield from shard.sync(raw, answer.server, known)
    return Batch(shard, names, entries, leases, secret, view.stamp)


def fill(values: BatchFill, payloads: Sequence[bytes], now_ms: int) -> Operation[list[bool]]:
    """Store an entry with its payload for each key of the batch; tells which were stored and live on."""
    batch, shard = values.batch, values.batch.shard
    kept = [
        (soft_ms and now_ms + soft_ms, hard_ms and now_ms + hard_ms, tags)
        for (hard_ms, soft_ms), tags in zip(values.lifetimes, values.tags, strict=True)
    ]
    blobs = entry.pack_all(batch.stamp, payloads, MSGPACK, kept, values.load_us, values.turn)
    ttls_ms = [hard_ms for hard_ms, _ in values.lifetimes]

    def chunk(page: slice) -> Chunk:
        columns = batch.entries[page], batch.leases[page], blobs[page], ttls_ms[page]
        call = shard.fill_many_call(batch.secret, batch.stamp, *columns)
        return Chunk(call, len(columns[0]), batch.stamp, lambda: fillings(page))

    def fillings(page: slice) -> list[Filling]:
        parts = zip(list(batch)[page], blobs[page], ttls_ms[page], values.tags[page], strict=True)
        return [Filling(*part) for part in parts]

    return (yield from shard.filled([chunk(page) for page in _pages(len(batch))]))


def _pages(size: int) -> list[slice]:
    return [slice(first, first + PAGE) for first in range(0, size, PAGE)]


def _lease_call(leases: Sequence[bytes], secret: bytes, lease_ms: int) -> Command:
    """Take all of these leases, or none if one of them is held."""
    pairs = [secret] * (2 * len(leases))
    pairs[::2] = leases
    return ("MSETEX", len(leases), *pairs, "NX", "PX", lease_ms)
