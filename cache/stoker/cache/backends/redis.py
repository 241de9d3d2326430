"""Entries on one Redis or Valkey server, shared by every process that opens the namespace.

Spreads the operations of `protocol` over shards and turns values into entries and back; holds no rule itself, and does
no I/O: `transport` and `aio_transport` drive what is made here.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple, TypeVar

from stoker.cache import batch, entry, evict, keys, scan, sweep, traffic
from stoker.cache.backends import Values, Write
from stoker.cache.bans import Rule, View
from stoker.cache.batch import Batch, BatchFill
from stoker.cache.caps import BanNews, ManyBans
from stoker.cache.codec import MSGPACK, Codec, Undecodable
from stoker.cache.entry import Stamp
from stoker.cache.errors import ConfigError
from stoker.cache.evict import EvictReport
from stoker.cache.flight import Hit
from stoker.cache.keys import EntryNames, ShardKeys
from stoker.cache.near import Near
from stoker.cache.options import CacheConfig
from stoker.cache.programs import Steps
from stoker.cache.protocol import Asked, Busy, Filling, Found, Lease, Name, Shard
from stoker.cache.shards import Agreement, Map, Placement
from stoker.cache.stats import Counters
from stoker.cache.sweep import SweepReport
from stoker.cache.tenancy import tenant_field
from stoker.cache.traffic import Counts, Group, Unflushed
from stoker.cache.usage import Usage, redis_usage
from stoker.cache.wire import Operation, together

Item = TypeVar("Item")
T = TypeVar("T")
log = logging.getLogger(__name__)
_NO_STAMP = Stamp(b"\0" * 8, 0)
_PAGE = 1000
"""Most keys of one round trip, so that no single command holds the server for long."""
_AS_A_RULE = entry.beginning(MSGPACK, 0)
_NOWHERE = 2**62
_FILL_PAGE = batch.PAGE
"""The same of keys to be leased or filled, which take the server longer."""


class _Seen(NamedTuple):
    """Live values; of each (soft_ms, hard_ms, load_us); and when they were looked at."""

    values: dict[str, Any]
    times: dict[str, tuple[int, int, int]]
    now: int

    def stale(self) -> int:
        """How many are past their soft expiry."""
        return len([0 for soft_ms, _, _ in self.times.values() if soft_ms and soft_ms <= self.now])

    def hits(self) -> dict[str, Hit]:
        """Each with all that is known of it."""
        now = self.now
        return {
            key: Hit(self.values[key], 0 < soft_ms <= now, hard_ms - now if hard_ms else math.inf, load_us)
            for key, (soft_ms, hard_ms, load_us) in self.times.items()
        }


class RedisBackend:
    """All shards on one server.

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
        self._on_event = on_event
        self._lease_ms = round(config.lease * 1000)
        self._traffic_key = keys.traffic(config.namespace)
        self._samples_key = keys.samples(config.namespace)
        self.near: Near | None = None
        if config.near_size:
            self.near = Near(config, counters, self._codec, near_keeps, near_served)
        self._place(Placement())

    def stored_name(self, tenant_id: str | None, key: str) -> str:
        return self.shard_of((tenant_id, key)).keys.entry(tenant_id, key).decode()

    def place(self, placement: Placement) -> None:
        if any(shard.view.control.raw for shard in self.shards):
            raise ConfigError(
                "num_shards",
                placement.num_shards,
                f"the cache is in use with {self.placement.num_shards}, and what it holds would not be found any more; "
                "enable sharding before the first read or write, or open a new namespace",
            )
        self._place(placement)

    def _place(self, placement: Placement) -> None:
        config = self._config
        wanted = Map(
            max_load_ms=round(config.max_load * 1000),
            boot_fence=config.boot_fence,
            num_shards=placement.num_shards,
            hash=placement.hash,
            probes=placement.probes,
            near_bound_ms=round(config.near_bound * 1000),
        )
        agreement = Agreement(wanted)
        self.placement = placement
        self.names = EntryNames(config.namespace, placement.num_shards)
        self.shards = [self._make_shard(n, agreement) for n in range(placement.num_shards)]
        if self.near is not None:
            self.near.place(self.shards)

    def _make_shard(self, number: int, agreement: Agreement) -> Shard:
        keys = ShardKeys(self._config.namespace, number)
        return Shard(keys, agreement, partial(self._cold, number), partial(self._long, number))

    def _cold(self, shard: int, reason: str, incarnation: str) -> None:
        level = logging.INFO if reason == "missing" else logging.WARNING
        namespace = self._config.namespace
        log.log(level, "namespace %s begins cold (%s): what was stored before is a miss", namespace, reason)
        facts = {"namespace": namespace, "shard": shard, "reason": reason, "incarnation": incarnation}
        self._on_event("cache.cold", facts)

    def _long(self, shard: int, news: BanNews) -> None:
        facts = {"namespace": self._config.namespace, "shard": shard, **asdict(news)}
        if isinstance(news, ManyBans):
            self._on_event("bans.many", facts)
            return
        self._counters.coalesced += 1
        log.warning(
            "tenant %s had %d live bans in namespace %s: all of it was invalidated instead; sweep more often",
            news.tenant_id,
            news.rules,
            self._config.namespace,
        )
        self._on_event("bans.coalesced", facts)

    def shard_of(self, name: Name) -> Shard:
        """The shard that the key lives in."""
        if len(self.shards) == 1:
            return self.shards[0]
        return self.shards[self.placement.shard_of(tenant_field(name[0]), name[1])]

    def _spread(
        self,
        items: Sequence[Item],
        name_of: Callable[[Item], Name],
        operation: Callable[[Shard, Sequence[Item]], Operation[list[T]]],
        most: int = _PAGE,
    ) -> Operation[list[T]]:
        """An operation over items of many shards, in pages, all shards of a page in the same round trips."""
        if len(self.shards) == 1 and len(items) <= most:
            return (yield from operation(self.shards[0], items))
        results: list[T] = []
        for first in range(0, len(items), most):
            page = items[first : first + most]
            if len(self.shards) == 1:
                results += yield from operation(self.shards[0], page)
                continue
            groups = self._by_shard([name_of(item) for item in page])
            parts = [operation(self.shards[n], [page[i] for i in group]) for n, group in groups.items()]
            placed: dict[int, T] = {}
            for group, part in zip(groups.values(), (yield from together(parts)), strict=True):
                placed.update(zip(group, part, strict=True))
            results += [placed[index] for index in range(len(page))]
        return results

    def _by_shard(self, names: Sequence[Name]) -> dict[int, list[int]]:
        """The places of the names among them, by the shard they live in."""
        groups: dict[int, list[int]] = {}
        for index, (tenant_id, key) in enumerate(names):
            groups.setdefault(self.placement.shard_of(tenant_field(tenant_id), key), []).append(index)
        return groups

    def read(self, tenant_id: str | None, key: str, type: Any = None) -> Operation[Hit | None]:
        shard = self.shard_of((tenant_id, key))
        if self.near is not None:
            [found] = yield from self._read(shard, ((tenant_id, key),))
            return self._hit(found, type)
        view, [blob] = yield from shard.look((shard.keys.entry(tenant_id, key),))
        if blob is None:
            return None
        return self._at_once(view, blob, type) or self._hit(shard.judge(view, (tenant_id, key), blob), type)

    def _at_once(self, view: View, blob: bytes, type: Any) -> Hit | None:
        """As `_seen`, of one entry; None if that takes all care."""
        try:
            begin, soft_ms, hard_ms, load_us, size = entry.glance(blob)
            at = _payload_at(view, begin)
            if len(blob) - at != size or size > self._codec.max_bytes:
                return None
            if at != entry.HEADER_BYTES and not blob[entry.HEADER_BYTES : at].isascii():
                return None
            value, now = self._codec.decoder(type)(blob[at:]), now_ms()
        except Exception:  # what is wrong, the careful way says
            return None
        return Hit(value, 0 < soft_ms <= now, hard_ms - now if hard_ms else math.inf, load_us)

    def _read(self, shard: Shard, names: Sequence[Name]) -> Operation[list[Found | None]]:
        found = yield from shard.read(names)
        if self.near is not None:
            self.near.read(names, found, shard)
        return found

    def read_many(
        self, tenant_id: str | None, keys: Sequence[str], type: Any = None
    ) -> Operation[dict[str, Hit]]:
        if len(self.shards) == 1 and self.near is None:
            pages = yield from self._read_pages(self.shards[0], tenant_id, keys, type)
            return {key: hit for page in pages for key, hit in page.hits().items()}
        names = [(tenant_id, key) for key in keys]
        found = yield from self._spread(names, _itself, self._read)
        hits = ((key, self._hit(one, type)) for key, one in zip(keys, found, strict=True))
        return {key: hit for key, hit in hits if hit is not None}

    def read_values(self, tenant_id: str | None, keys: Sequence[str], type: Any = None) -> Operation[Values]:
        if len(self.shards) > 1 or self.near is not None:
            hits = yield from self.read_many(tenant_id, keys, type)
            return Values(
                {key: hit.value for key, hit in hits.items()}, sum(hit.stale for hit in hits.values())
            )
        first, *pages = yield from self._read_pages(self.shards[0], tenant_id, keys, type)
        for page in pages:
            first.values.update(page.values)
        return Values(first.values, sum(page.stale() for page in (first, *pages)))

    def _read_pages(
        self, shard: Shard, tenant_id: str | None, keys: Sequence[str], type: Any
    ) -> Operation[list[_Seen]]:
        pages = []
        for first in range(0, len(keys), _PAGE):
            page = keys[first : first + _PAGE]
            view, blobs = yield from shard.look(shard.keys.entries(tenant_id, page))
            pages.append(self._seen(shard, view, tenant_id, page, blobs, type))
        return pages

    def _seen(
        self,
        shard: Shard,
        view: View,
        tenant_id: str | None,
        keys: Sequence[str],
        blobs: Sequence[bytes | None],
        type: Any,
    ) -> _Seen:
        """The values of entries that the view lets live.

        Nearly all can be served after one look at their header, see `_payload_at`. Whatever is different in any way
        is judged and decoded with all care.
        """
        seen = _Seen({}, {}, now_ms())
        values, times = seen.values, seen.times
        decode, most = self._codec.decoder(type), self._codec.max_bytes
        glance, header_bytes = entry.glance, entry.HEADER_BYTES
        known, at = b"", _NOWHERE
        for key, blob in zip(keys, blobs, strict=True):
            if blob is None:
                continue
            try:
                begin, soft_ms, hard_ms, load_us, size = glance(blob)
                if begin != known:
                    known, at = begin, _payload_at(view, begin)
                if len(blob) - at == size <= most and (at == header_bytes or blob[header_bytes:at].isascii()):
                    values[key] = decode(blob[at:])
                    times[key] = soft_ms, hard_ms, load_us
                    continue
            except Exception:  # what is wrong, the careful way says
                pass
            found = shard.judge(view, (tenant_id, key), blob)
            hit = self._hit(found, type)
            if found is not None and hit is not None:
                values[key] = hit.value
                times[key] = found.meta.soft_ms, found.meta.hard_ms, found.meta.load_us
        return seen

    def _hit(self, found: Found | None, type: Any) -> Hit | None:
        if found is None:
            return None
        meta, blob = found.meta, found.blob
        try:
            value = self._codec.decode(meta.codec, meta.flags, memoryview(blob)[meta.payload_at :], type)
        except Undecodable as error:
            self._counters.undecodable += 1
            log.debug("an entry could not be decoded: %s", error)
            return None
        now = now_ms()
        left_ms = meta.hard_ms - now if meta.hard_ms else math.inf
        return Hit(value, 0 < meta.soft_ms <= now, left_ms, meta.load_us)

    def acquire(
        self, names: Sequence[Name], type: Any = None
    ) -> Operation[list[tuple[Lease | Busy, Hit | None]]]:
        taken = yield from self._spread(
            names, _itself, lambda shard, page: shard.acquire(page, self._lease_ms), _FILL_PAGE
        )
        return [(lease, self._hit(found, type)) for lease, found in taken]

    def snapshot(self, tenant_id: str | None, key: str, hold_ms: int) -> Operation[Lease]:
        return self.shard_of((tenant_id, key)).snapshot(tenant_id, key, hold_ms)

    def fill(self, fills: Sequence[tuple[Lease, Write]]) -> Operation[list[bool]]:
        now = now_ms()
        packed = [
            Filling(lease, self._pack(lease.key, lease.stamp, write, now), write.ttl_ms, write.tags)
            for lease, write in fills
        ]
        filling = self._spread(packed, lambda one: one.lease.name, Shard.fill, _FILL_PAGE)
        return (yield from self._changing([one.lease.name for one in packed], filling))

    def _changing(self, names: Sequence[Name], operation: Operation[T]) -> Operation[T]:
        """An operation that changes these entries: none of their copies here outlives it."""
        try:
            return (yield from operation)
        finally:
            if self.near is not None:
                self.near.forget(names)

    def lease_absent(self, names: Sequence[Name]) -> Operation[list[Batch] | None]:
        """Lease keys of which none is there and none is leased, in a batch for each shard; else None, and none is."""
        groups = self._by_shard(names) if len(self.shards) > 1 else {0: range(len(names))}
        asked = [
            batch.lease_absent(self.shards[n], n, [names[i] for i in group], self._lease_ms)
            for n, group in groups.items()
        ]
        taken = yield from together(asked)
        batches = [one for one in taken if one is not None]
        if len(batches) == len(taken):
            return batches
        if batches:
            yield from self.release([lease for one in batches for lease in one])
        return None

    def fill_batches(self, fills: Sequence[BatchFill]) -> Operation[list[bool] | None]:
        """Store the values, those of a batch all in one round trip, as a rule; tells which were stored and live on.

        Returns:
            None: Nothing was sent; one of the values needs a look of its own, by `fill`.
        """
        now = now_ms()
        asked: list[Operation[list[bool]]] = []
        for one in fills:
            payloads = self._codec.encode_all(one.values)
            if payloads is None:
                return None
            kept = [
                (soft_ms and now + soft_ms, hard_ms and now + hard_ms, tags)
                for (hard_ms, soft_ms), tags in zip(one.lifetimes, one.tags, strict=True)
            ]
            blobs = entry.pack_all(one.batch.stamp, payloads, MSGPACK, kept, one.load_us)
            ttls_ms = [hard_ms for hard_ms, _ in one.lifetimes]
            asked.append(batch.fill(self.shards[one.batch.shard], one.batch, blobs, ttls_ms, one.tags))
        names = [name for one in fills for name in one.batch.names]
        return [ok for part in (yield from self._changing(names, together(asked))) for ok in part]

    def _pack(self, key: str, stamp: Stamp, write: Write, now: int) -> bytes:
        flags, payload = self._codec.encode(key, write.value)
        soft_ms = now + write.soft_ttl_ms if write.soft_ttl_ms else 0
        hard_ms = now + write.ttl_ms if write.ttl_ms else 0
        return entry.pack(stamp, payload, MSGPACK, flags, write.tags, soft_ms, hard_ms, write.load_us)

    def renew(self, leases: Sequence[Lease]) -> Operation[None]:
        yield from self._spread(leases, _name_of, lambda shard, page: shard.renew(page, self._lease_ms))

    def release(self, leases: Sequence[Lease]) -> Operation[None]:
        yield from self._spread(leases, _name_of, Shard.release)

    def store(self, tenant_id: str | None, writes: Sequence[tuple[str, Write]]) -> Operation[list[bool]]:
        now = now_ms()
        items = [
            ((tenant_id, key), self._pack(key, _NO_STAMP, write, now), write.ttl_ms) for key, write in writes
        ]
        storing = self._spread(items, lambda item: item[0], Shard.store)
        return (yield from self._changing([item[0] for item in items], storing))

    def ask_refresh(self, tenant_id: str | None, key: str) -> Operation[Asked]:
        return self.shard_of((tenant_id, key)).ask_refresh(tenant_id, key, self._lease_ms)

    def refreshed(self, tenant_id: str | None, key: str) -> Operation[None]:
        return self.shard_of((tenant_id, key)).refreshed(tenant_id, key)

    def delete(self, tenant_id: str | None, key: str) -> Operation[bool]:
        return self._changing([(tenant_id, key)], self.shard_of((tenant_id, key)).delete(tenant_id, key))

    def ban(self, rules: Sequence[Rule]) -> Operation[Operation[None] | None]:
        try:
            lengths = yield from together([shard.ban(rules) for shard in self.shards])
        finally:
            if self.near is not None:
                self.near.banned()
        return self._shorten(lengths) if any(lengths) else None

    def _shorten(self, lengths: Sequence[int]) -> Operation[None]:
        long = [(shard, length) for shard, length in zip(self.shards, lengths, strict=True) if length]
        yield from together([shard.shorten(length) for shard, length in long])

    def explain(self, tenant_id: str | None, key: str) -> Operation[dict[str, Any]]:
        shard = self.shard_of((tenant_id, key))
        view = yield from shard.catch_up()
        name, lease = shard.keys.entry(tenant_id, key), shard.keys.lease(tenant_id, key)
        answer = yield (("GET", name), ("PTTL", name), ("PTTL", lease), ("MEMORY", "USAGE", name))
        blob, ttl_ms, lease_ms, size = (answer.reply(i) for i in range(4))
        facts: dict[str, Any] = {
            "redis_key": name.decode(),
            "shard": self.shards.index(shard),
            "state": "absent",
            "lease_ms": lease_ms if lease_ms >= 0 else None,
            "incarnation": view.control.incarnation.hex(),
            "head": view.control.head,
            "floor": view.control.floor,
            "bans": len(view.bans),
            "near": "off" if self.near is None else self.near.state_of((tenant_id, key)),
        }
        meta = entry.unpack(blob) if blob is not None else None
        if blob is not None and meta is None:
            facts["state"] = "unreadable"
        elif meta is not None:
            alive = shard.judge(view, (tenant_id, key), blob) is not None
            facts.update(
                state="live"
                if alive
                else "banned"
                if meta.incarnation == view.control.incarnation
                else "outdated",
                seq=meta.seq,
                tags=list(meta.tags),
                ttl_ms=ttl_ms if ttl_ms >= 0 else None,
                soft_ms=meta.soft_ms or None,
                load_us=meta.load_us,
                payload_bytes=meta.payload_len,
                memory_bytes=size,
                compressed=bool(meta.flags & 1),
            )
        return facts

    def sweep_steps(self, batch: int, cursor: dict[str, Any] | None) -> Steps[SweepReport]:
        return sweep.sweep_steps(self, batch, cursor)

    def evict_steps(
        self, target_bytes: int | None, batch: int, cursor: dict[str, Any] | None
    ) -> Steps[EvictReport]:
        return evict.evict_steps(self, self._config, now_ms, target_bytes, batch, cursor)

    def entries_by_shard(self) -> Operation[dict[int, int]]:
        return scan.count(self, _PAGE)

    def usage(self) -> Operation[Usage]:
        return redis_usage(self)

    def add_traffic(self, unflushed: Unflushed) -> Operation[None]:
        return traffic.flush(self._traffic_key, self._samples_key, unflushed)

    def traffic(self) -> Operation[dict[Group, Counts]]:
        return traffic.fleet(self._traffic_key)

    def ping(self) -> Operation[bool]:
        return bool((yield (("PING",),)).reply() == b"PONG")

    def close(self) -> None:
        """Nothing to do: connections are the transport's."""

    def forked(self) -> None:
        for shard in self.shards:
            shard.forked()
        if self.near is not None:
            self.near.forked()

    def __len__(self) -> int:
        raise TypeError("len() of a cache on Redis would have to visit every key; stats() has counts")


def _payload_at(view: View, begin: bytes) -> int:
    """Where the payload is, if entries that begin so are of the ruling incarnation, and no ban is newer; none is asked.

    Else where no entry has one, so that its size is not what it should be.
    """
    beginning, tags_len, of, seq = entry.common(begin)
    control = view.control
    as_a_rule = (
        beginning == _AS_A_RULE and of == control.incarnation and view.bans.newest <= seq <= control.head
    )
    return entry.HEADER_BYTES + tags_len if as_a_rule else _NOWHERE


def now_ms() -> int:
    """Unix time in milliseconds, as headers hold it."""
    return time.time_ns() // 1_000_000


def _itself(name: Name) -> Name:
    return name


def _name_of(lease: Lease) -> Name:
    return lease.name
