"""Entries on one Redis or Valkey server, shared by every process that opens the namespace.

Spreads the operations of `protocol` over shards and turns values into entries and back; holds no rule itself, and does
no I/O: `transport` and `aio_transport` drive what is made here.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from stoker.cache import batch, entry, evict, hot, keys, matching, pressure, scan, sweep, traffic
from stoker.cache.backends import Values, Write, explain
from stoker.cache.backends.bulk import Bulk
from stoker.cache.backends.pages import PAGE, pages, spread, then
from stoker.cache.backends.placed import Placed
from stoker.cache.backends.reading import Reading, now_ms, values_of
from stoker.cache.backends.space import resettled, resettling, settled
from stoker.cache.bans import Rule, View
from stoker.cache.codec import MSGPACK, Codec
from stoker.cache.control import ATTEMPTS
from stoker.cache.entry import Stamp
from stoker.cache.evict import EvictReport
from stoker.cache.flight import Hit
from stoker.cache.matching import Matching
from stoker.cache.near import Near
from stoker.cache.options import CacheConfig
from stoker.cache.pressure import Makeup, Node
from stoker.cache.programs import Steps
from stoker.cache.protocol import Asked, Busy, Filling, Found, Lease, Name, Shard
from stoker.cache.quotas import Copy, Quotas, Refusals
from stoker.cache.quotas import write as write_quotas
from stoker.cache.shards import Resharded
from stoker.cache.stats import Counters
from stoker.cache.sweep import SweepReport
from stoker.cache.traffic import Counts, Group, Unflushed
from stoker.cache.usage import Usage, redis_usage
from stoker.cache.wire import Exchange, Operation, together

Item = TypeVar("Item")
T = TypeVar("T")
log = logging.getLogger(__name__)
_NO_STAMP = Stamp(b"\0" * 8, 0)
_FILL_PAGE = batch.PAGE
"""As `PAGE`, of keys to be leased or filled, which take the server longer."""


class RedisBackend(Placed, Bulk):
    """All shards on one server. `cluster.ClusterBackend` is the same with shards on many.

    Args:
        config: With `redis_url`.
        counters: Of the cache that this backend serves.
        on_event: Told `cache.cold` with its reason when this process began a new incarnation.
        near_keeps, near_served: What `Near` is given.

    Attributes:
        near: The copies in this process, if there are to be any.
    """

    def __init__(
        self,
        config: CacheConfig,
        counters: Counters,
        on_event: Callable[[str, Mapping[str, Any]], None],
        near_keeps: Callable[[str], bool],
        near_served: Callable[[Name, int], bool],
    ) -> None:
        self._config = config
        self._counters = counters
        self._codec = Codec(compress_above=config.compress_above, max_value_bytes=config.max_value_bytes)
        self._reading = Reading(self._codec, counters)
        self._on_event = on_event
        self._lease_ms = round(config.lease * 1000)
        self._traffic_key = keys.traffic(config.namespace)
        self._samples_key = keys.samples(config.namespace)
        self.near = Near(config, counters, self._codec, near_keeps, near_served) if config.near_size else None
        self.quotas_key = keys.quotas(config.namespace)
        self._refusals = Refusals(self.quotas_key)
        self._begin_placed()

    def _spread(
        self,
        items: Sequence[Item],
        name_of: Callable[[Item], Name],
        operation: Callable[[Shard, Sequence[Item]], Operation[list[T]]],
        most: int = PAGE,
    ) -> Operation[list[T]]:
        """An operation over items of many shards, in pages, all shards of a page in the same round trips."""
        space = self.space
        if len(space.shards) == 1 and len(items) <= most:
            return operation(space.shards[0], items)
        return spread(space.shards, space.by_shard, items, name_of, operation, most)

    def _refused(self, tenants: Iterable[str | None]) -> Operation[frozenset[str | None]]:
        """Those of the tenants that are above their hard quotas."""
        return self._refusals.refused(tenants)

    def _of_shards(self, asked: Sequence[tuple[Shard, Callable[[], Operation[T]]]]) -> Operation[list[T]]:
        """Operations of shards, all in the same round trips."""
        return together([begin() for _, begin in asked])

    def _one(self, shard: Shard, begin: Callable[[], Operation[T]]) -> Operation[T]:  # noqa: ARG002
        """An operation of one shard."""
        return begin()

    def read(
        self, tenant_id: str | None, key: str, type: Any = None, left: int = ATTEMPTS
    ) -> Operation[Hit | None]:
        return self._read_in(self.space.shard_of(tenant_id, key), tenant_id, key, type, left)

    def _read_in(
        self, shard: Shard, tenant_id: str | None, key: str, type: Any, left: int
    ) -> Operation[Hit | None]:
        try:
            if self.near is not None:
                [found] = yield from self._read(shard, ((tenant_id, key),))
                return self._reading.hit(found, type)
            view, [blob] = yield from shard.look_at(tenant_id, key)
        except Resharded as news:  # as `resettling` does it, which costs a read what it need not
            left = settled(self, news, left)
            return (yield from self.read(tenant_id, key, type, left))
        if blob is None:
            return None
        return self._reading.one(shard, view, (tenant_id, key), blob, type)

    def _read(self, shard: Shard, names: Sequence[Name]) -> Operation[list[Found | None]]:
        found = yield from shard.read(names)
        if self.near is not None:
            self.near.read(names, found, shard)
        return found

    @resettling
    def read_many(
        self, tenant_id: str | None, keys: Sequence[str], type: Any = None
    ) -> Operation[dict[str, Hit]]:
        if len(self.shards) == 1 and self.near is None:
            return (yield from self._read_shard(self.shards[0], tenant_id, keys, type))
        names = [(tenant_id, key) for key in keys]
        found = yield from self._spread(names, _itself, self._read)
        hits = ((key, self._reading.hit(one, type)) for key, one in zip(keys, found, strict=True))
        return {key: hit for key, hit in hits if hit is not None}

    def _read_shard(
        self, shard: Shard, tenant_id: str | None, keys: Sequence[str], type: Any
    ) -> Operation[dict[str, Hit]]:
        hits: dict[str, Hit] = {}
        for page in pages(keys):
            if self.near is not None:
                found = yield from self._read(shard, [(tenant_id, key) for key in page])
                each = ((key, self._reading.hit(one, type)) for key, one in zip(page, found, strict=True))
                hits.update((key, hit) for key, hit in each if hit is not None)
                continue
            view, blobs = yield from shard.look_at_all(tenant_id, page)
            for key, blob in zip(page, blobs, strict=True):
                if blob and (hit := self._reading.one(shard, view, (tenant_id, key), blob, type)):
                    hits[key] = hit
        return hits

    def read_values(self, tenant_id: str | None, keys: Sequence[str], type: Any = None) -> Operation[Values]:
        return self._read_values(tenant_id, keys, type, ATTEMPTS)

    def _read_values(
        self, tenant_id: str | None, keys: Sequence[str], type: Any, left: int
    ) -> Operation[Values]:
        if self.near is not None:
            return values_of((yield from self.read_many(tenant_id, keys, type)))
        space = self.space
        found: list[Values] = []
        try:
            if len(space.shards) == 1 and len(keys) <= PAGE:
                return (yield from self._values_in(space.shards[0], keys, tenant_id, type))
            for page in pages(keys):
                by_shard = space.keys_by_shard(tenant_id, page).items()
                parts = [(space.shards[number], [page[i] for i in places]) for number, places in by_shard]
                found += yield from together([self._values_in(*part, tenant_id, type) for part in parts])
        except Resharded as news:  # as in `_read_in`
            left = settled(self, news, left)
            return (yield from self._read_values(tenant_id, keys, type, left))
        values = {key: value for part in found for key, value in part.values.items()}
        return Values({key: values[key] for key in keys if key in values}, sum(part.stale for part in found))

    def _values_in(
        self, shard: Shard, keys: Sequence[str], tenant_id: str | None, type: Any
    ) -> Operation[Values]:
        view, blobs = yield from shard.look_at_all(tenant_id, keys)
        return self._reading.values(shard, view, tenant_id, keys, blobs, type)

    @resettling
    def acquire(
        self, names: Sequence[Name], type: Any = None
    ) -> Operation[list[tuple[Lease | Busy, Hit | None]]]:
        taken = yield from self._spread(
            names, _itself, lambda shard, page: shard.acquire(page, self._lease_ms), _FILL_PAGE
        )
        return [(lease, self._reading.hit(found, type)) for lease, found in taken]

    @resettling
    def snapshot(self, tenant_id: str | None, key: str, hold_ms: int) -> Operation[Lease]:
        shard = self.space.shard_of(tenant_id, key)
        return self._one(shard, partial(shard.snapshot, tenant_id, key, hold_ms))

    @resettling
    def fill(self, fills: Sequence[tuple[Lease, Write]]) -> Operation[list[bool]]:
        full = yield from self._refused({lease.tenant_id for lease, _ in fills})
        if full:
            return (yield from self._fill_others(fills, full))
        now = now_ms()
        packed = [
            Filling(lease, self._pack(lease.key, lease.stamp, write, now), write.ttl_ms, write.tags)
            for lease, write in fills
        ]
        filling = self._spread(packed, lambda one: one.lease.name, Shard.fill, _FILL_PAGE)
        return (yield from self._changing([one.lease.name for one in packed], filling))

    def _changing(self, names: Sequence[Name], operation: Operation[T]) -> Operation[T]:
        """An operation that changes these entries: none of their copies here outlives it."""
        return operation if self.near is None else then(operation, partial(self.near.forget, names))

    def _fill_others(
        self, fills: Sequence[tuple[Lease, Write]], full: frozenset[str | None]
    ) -> Operation[list[bool]]:
        """Fill what is not of tenants that are full; theirs gives its leases back, so that nobody waits for them."""
        refused = [lease for lease, _ in fills if lease.tenant_id in full]
        self._counters.over_quota += len(refused)
        yield from self.release(refused)
        others = [fill for fill in fills if fill[0].tenant_id not in full]
        stored = iter((yield from self.fill(others)) if others else ())
        return [lease.tenant_id not in full and next(stored) for lease, _ in fills]

    def _pack(self, key: str, stamp: Stamp, write: Write, now: int) -> bytes:
        flags, payload = self._codec.encode(key, write.value)
        soft_ms = now + write.soft_ttl_ms if write.soft_ttl_ms else 0
        hard_ms = now + write.ttl_ms if write.ttl_ms else 0
        return entry.pack(
            stamp, payload, MSGPACK, flags, write.tags, soft_ms, hard_ms, write.load_us, write.turn
        )

    def renew(self, leases: Sequence[Lease]) -> Operation[None]:
        yield from self._spread(leases, _name_of, lambda shard, page: shard.renew(page, self._lease_ms))

    def release(self, leases: Sequence[Lease]) -> Operation[None]:
        yield from self._spread(leases, _name_of, Shard.release)

    def store(
        self, tenant_id: str | None, writes: Sequence[tuple[str, Write]], left: int = ATTEMPTS
    ) -> Operation[list[bool]]:
        if self._refusals.any and (yield from self._refused((tenant_id,))):
            self._counters.over_quota += len(writes)
            yield from self._delete_all([(tenant_id, key) for key, _ in writes])  # it is not true any more
            return [False] * len(writes)
        now = now_ms()
        items = [
            ((tenant_id, key), self._pack(key, _NO_STAMP, write, now), write.ttl_ms) for key, write in writes
        ]
        storing = self._spread(items, _name_of_item, Shard.store)
        if self.near is not None:
            storing = self._changing([item[0] for item in items], storing)
        try:
            return (yield from storing)
        except Resharded as news:  # as in `_read_in`
            left = settled(self, news, left)
            return (yield from self.store(tenant_id, writes, left))

    def ask_refresh(self, tenant_id: str | None, key: str) -> Operation[Asked]:
        shard = self.space.shard_of(tenant_id, key)
        return self._one(shard, partial(shard.ask_refresh, tenant_id, key, self._lease_ms))

    def refreshed(self, tenant_id: str | None, key: str) -> Operation[None]:
        shard = self.space.shard_of(tenant_id, key)
        return self._one(shard, partial(shard.refreshed, tenant_id, key))

    @resettling
    def delete(self, tenant_id: str | None, key: str) -> Operation[bool]:
        shard = self.space.shard_of(tenant_id, key)
        deleting = self._one(shard, partial(shard.delete, tenant_id, key))
        return self._changing([(tenant_id, key)], deleting)

    @resettling
    def _delete_all(self, names: Sequence[Name]) -> Operation[list[bool]]:
        placed = [(self.space.shard_of(*name), name) for name in names]
        deleting = self._of_shards([(shard, partial(shard.delete, *name)) for shard, name in placed])
        return self._changing(names, deleting)

    @resettling
    def ban(self, rules: Sequence[Rule]) -> Operation[Operation[None] | None]:
        space = self.space
        shards = [space.shards[n] for n in space.concerned(rules)]
        members = [rule.member() for rule in rules]
        try:
            lengths = yield from self._of_shards([(shard, partial(shard.ban, members)) for shard in shards])
        finally:
            if self.near is not None:
                self.near.banned()
        long = [(shard, length) for shard, length in zip(shards, lengths, strict=True) if length]
        return self._shorten(long) if long else None

    @resettling
    def _shorten(self, long: Sequence[tuple[Shard, int]]) -> Operation[None]:
        yield from self._of_shards([(shard, partial(shard.shorten, length)) for shard, length in long])

    @resettling
    def explain(self, tenant_id: str | None, key: str) -> Operation[dict[str, Any]]:
        shard = self.space.shard_of(tenant_id, key)
        facts = yield from self._one(shard, partial(explain.facts, shard, (tenant_id, key)))
        facts["shard"] = shard.keys.number
        facts["near"] = "off" if self.near is None else self.near.state_of((tenant_id, key))
        return facts

    def sweep_steps(self, batch: int, cursor: dict[str, Any] | None) -> Steps[SweepReport]:
        return resettled(self, lambda at: sweep.sweep_steps(self.space, batch, at), cursor)

    def evict_steps(
        self, target_bytes: int | None, batch: int, cursor: dict[str, Any] | None, stay: float
    ) -> Steps[EvictReport]:
        def evicted(at: dict[str, Any] | None) -> Steps[EvictReport]:
            return evict.evict_steps(self.space, self._config, now_ms, target_bytes, batch, at, stay)

        return resettled(self, evicted, cursor)

    @resettling
    def entries_by_shard(self) -> Operation[dict[int, int]]:
        return (yield from scan.count((yield from self.known()), PAGE))

    @resettling
    def matching(self, rules: Sequence[Rule]) -> Operation[Matching]:
        return (yield from matching.find((yield from self.known()), rules, PAGE))

    def usage(self) -> Operation[Usage]:
        return (yield from redis_usage((yield from self.known())))

    def node(self) -> Operation[Node]:
        return pressure.node()

    def makeup(self, wanted: int) -> Operation[Makeup]:
        return (yield from pressure.makeup((yield from self.known()), wanted))

    def tell_quotas(self, quotas: Quotas, full: Sequence[str], kept_ms: int) -> Operation[None]:
        return write_quotas(self.quotas_key, Copy(quotas, tuple(full)), kept_ms)

    def add_traffic(self, unflushed: Unflushed) -> Operation[None]:
        return traffic.flush(self._traffic_key, self._samples_key, unflushed)

    def last_traffic(self, unflushed: Unflushed) -> tuple[bytes, Exchange]:
        """The same of a process that ends: the key that says where, and the commands."""
        return self._traffic_key, traffic.commands(self._traffic_key, self._samples_key, unflushed)

    def traffic(self) -> Operation[dict[Group, Counts]]:
        return traffic.fleet(self._traffic_key)

    def reports(self, most: int) -> Operation[list[bytes]]:
        """Take samples of the keys that processes have read."""
        return hot.collect(self._samples_key, most)

    @resettling
    def views(self) -> Operation[list[View]]:
        """What is known of each shard's ban log, as new as its control record is now; and see that there is a map.

        Without that look a map that was lost would be missed only by processes that have just begun.
        """
        space = self.space
        yield from self._agree(space.shards[0].keys, space.agreement)
        return (yield from self._of_shards([(shard, shard.catch_up) for shard in space.shards]))

    def ping(self) -> Operation[bool]:
        return bool((yield (("PING",),)).reply() == b"PONG")

    def close(self) -> None:
        """Nothing to do: connections are the transport's."""

    def __len__(self) -> int:
        raise TypeError("len() of a cache on Redis would have to visit every key; stats() has counts")


def _itself(name: Name) -> Name:
    return name


def _name_of(lease: Lease) -> Name:
    return lease.name


def _name_of_item(item: tuple[Name, bytes, int]) -> Name:
    return item[0]
