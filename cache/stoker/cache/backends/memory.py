"""Entries in this process: for tests, single processes, and as a drop-in.

Follows the same rules as Redis (stamps, leases, tokens, bans). Here are the operations, the leases and the ban log's
life; `store` has the entries. Values are kept as they are, not copied: who changes one changes what the cache returns.
After a fork the child starts empty.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from stoker.cache.backends import Values, Write
from stoker.cache.backends.eviction import Entries
from stoker.cache.backends.sizes import entry_bytes
from stoker.cache.backends.store import Store, expires, field_and_key, place_of, tags
from stoker.cache.bans import Kind, Rule
from stoker.cache.batch import BatchFill
from stoker.cache.caps import CAPS
from stoker.cache.entry import Stamp
from stoker.cache.evict import EvictReport
from stoker.cache.flight import Hit
from stoker.cache.matching import EXAMPLES, Matching, table_of
from stoker.cache.options import CacheConfig
from stoker.cache.pressure import Looked, Makeup, Node, of_sample, rss_bytes
from stoker.cache.programs import Steps
from stoker.cache.protocol import LEASE, TOKEN, Asked, Busy, Lease, Name
from stoker.cache.reshard import Change, Changed, Tidied
from stoker.cache.shards import Placement
from stoker.cache.stats import Counters
from stoker.cache.steps import Step
from stoker.cache.sweep import SweepReport
from stoker.cache.tenancy import name_of, tenant_field
from stoker.cache.traffic import Counts, Group, Traffic, Unflushed
from stoker.cache.usage import Usage
from stoker.cache.wire import asking_nobody

_SAMPLE = 1000
"""Values whose size stands for all."""
_MOST_LEASES = 1000
"""Leases kept before the expired ones are forgotten."""


class MemoryBackend:
    """One shard in a dict.

    Args:
        config: Gives the bounds, `eviction`, `max_load` and the watermarks.
        counters: Of the cache that this backend serves.
        clock: Seconds that never go back; tests pass their own.
        traffic: Of the cache, too: hits are counted there alone.
    """

    default_shards = 1

    def __init__(
        self,
        config: CacheConfig,
        counters: Counters,
        clock: Callable[[], float] = time.monotonic,
        traffic: Traffic | None = None,
    ) -> None:
        self._config = config
        self._counters = counters
        self._clock = clock
        self._secrets = itertools.count()
        self.placement = Placement()
        self._store = Store(config, counters, (traffic or Traffic(shared=False)).counts_of, clock)
        self.peek, self.update, self.put = self._store.peek, self._store.update, self._store.put
        self._begin()

    def forked(self) -> None:
        self._store.forked()
        self._begin()

    def _begin(self) -> None:
        self._lock = self._store.lock
        self._lease_limit = _MOST_LEASES
        self._most_bans = CAPS.many_bans
        """Kept before a sweep runs inside an invalidation, so that no thread is needed to stay bounded."""
        self._floor = 0

    @property
    def slots(self) -> Entries:
        """The entries, dead ones included."""
        return self._store.slots

    @asking_nobody
    def read(self, tenant_id: str | None, key: str, type: Any = None) -> Hit | None:  # noqa: ARG002 - kept as they are
        with self._lock:
            return self._store.hit(place_of(tenant_id, key))

    @asking_nobody
    def read_many(self, tenant_id: str | None, keys: Sequence[str], type: Any = None) -> dict[str, Hit]:  # noqa: ARG002
        with self._lock:
            hits = {key: self._store.hit(place_of(tenant_id, key)) for key in keys}
        return {key: hit for key, hit in hits.items() if hit is not None}

    @asking_nobody
    def read_values(self, tenant_id: str | None, keys: Sequence[str], type: Any = None) -> Values:  # noqa: ARG002
        with self._lock:
            hits = [(key, self._store.hit(place_of(tenant_id, key))) for key in keys]
        values = {key: hit.value for key, hit in hits if hit is not None}
        return Values(values, sum(hit.stale for _, hit in hits if hit is not None))

    @asking_nobody
    def acquire(self, names: Sequence[Name], type: Any = None) -> list[tuple[Lease | Busy, Hit | None]]:  # noqa: ARG002
        with self._lock:
            return [(self._lease(*name), self._store.hit(place_of(*name))) for name in names]

    def _lease(self, tenant_id: str | None, key: str) -> Lease | Busy:
        held = self._held(tenant_id, key)
        if held is not None:
            return Busy(held.secret[:1] == TOKEN)
        return self._grant(tenant_id, key, LEASE, self._config.max_load)

    def _grant(self, tenant_id: str | None, key: str, kind: bytes, seconds: float) -> Lease:
        store, now = self._store, self._clock()
        lease = Lease(tenant_id, key, b"%s%d" % (kind, next(self._secrets)), Stamp(b"", store.head))
        if len(store.leases) >= self._lease_limit:  # tokens that were never used
            self._forget_leases(now)
            self._lease_limit = max(_MOST_LEASES, 2 * len(store.leases))
        store.leases[place_of(tenant_id, key)] = lease, now + seconds
        return lease

    def _held(self, tenant_id: str | None, key: str) -> Lease | None:
        lease, deadline = self._store.leases.get(place_of(tenant_id, key), (None, 0.0))
        return lease if self._clock() < deadline else None

    @asking_nobody
    def snapshot(self, tenant_id: str | None, key: str, hold_ms: int) -> Lease:
        with self._lock:
            return self._grant(tenant_id, key, TOKEN, hold_ms / 1000)

    @asking_nobody
    def begin_batches(self, names: Sequence[Name]) -> None:
        """Not offered: one lease after the other costs nothing here."""

    @asking_nobody
    def fill_batches(self, fills: Sequence[BatchFill]) -> None:
        """Nobody has batches."""

    @asking_nobody
    def fill(self, fills: Sequence[tuple[Lease, Write]]) -> list[bool]:
        with self._lock:
            return [self._fill(lease, write) for lease, write in fills]

    def _fill(self, lease: Lease, write: Write) -> bool:
        if self._held(lease.tenant_id, lease.key) != lease:
            return False
        if self._lives(lease, write.tags):
            return self._store.put(lease.tenant_id, lease.key, write)
        del self._store.leases[place_of(lease.tenant_id, lease.key)]
        return False

    def _lives(self, lease: Lease, tags: tuple[str, ...]) -> bool:
        if lease.stamp.seq < self._floor:
            return False  # a ban that kills it may have retired
        return not self._store.bans.kills(tenant_field(lease.tenant_id), lease.key, tags, lease.stamp.seq)

    @asking_nobody
    def renew(self, leases: Sequence[Lease]) -> None:
        """Nothing to do: a loader in this process cannot be lost, so its lease lasts `max_load` at once."""

    @asking_nobody
    def release(self, leases: Sequence[Lease]) -> None:
        held = self._store.leases
        with self._lock:
            for lease in leases:
                place = place_of(lease.tenant_id, lease.key)
                if held.get(place, (None, 0.0))[0] == lease:
                    del held[place]

    @asking_nobody
    def store(self, tenant_id: str | None, writes: Sequence[tuple[str, Write]]) -> list[bool]:
        with self._lock:
            return [self._store.put(tenant_id, key, write) for key, write in writes]

    @asking_nobody
    def ask_refresh(self, tenant_id: str | None, key: str) -> Asked:  # noqa: ARG002
        return Asked.NOW  # this process remembers by itself

    @asking_nobody
    def refreshed(self, tenant_id: str | None, key: str) -> None:
        """There is no note of it."""

    @asking_nobody
    def delete(self, tenant_id: str | None, key: str) -> bool:
        place = place_of(tenant_id, key)
        with self._lock:
            self._store.leases.pop(place, None)
            slot = self._store.live(place)
            if slot is not None:
                self._store.drop(slot)
            return slot is not None

    @asking_nobody
    def ban(self, rules: Sequence[Rule]) -> None:
        with self._lock:
            self._store.ban(list(rules))
            self._keep_short({rule.tenant for rule in rules})

    def _keep_short(self, tenants: Iterable[str]) -> None:
        """Sweep when there are many bans; what a lease that is held for long keeps alive becomes one ban a tenant."""
        store = self._store
        if len(store.bans) > self._most_bans:
            self._sweep()
            self._most_bans = max(CAPS.many_bans, 2 * len(store.bans))
        for tenant in tenants:
            if CAPS.exceeded_by(store.bans.size_of(tenant)):
                self._sweep()
                if CAPS.exceeded_by(store.bans.size_of(tenant)):
                    store.bans.add(Rule(Kind.TENANT, tenant, ""), store.head)
                    self._counters.coalesced += 1

    @asking_nobody
    def explain(self, tenant_id: str | None, key: str) -> dict[str, Any]:
        place, store = place_of(tenant_id, key), self._store
        with self._lock:
            slot, now = store.find(place), self._clock()
            facts: dict[str, Any] = {"state": "absent", "head": store.head, "bans": len(store.bans)}
            _, deadline = store.leases.get(place, (None, now))
            facts["lease_ms"] = round((deadline - now) * 1000) if now < deadline else None
            if slot is None or now >= expires(slot):
                return facts
            facts.update(
                state="banned" if store.dead(slot, now) else "live",
                seq=slot.seq,
                tags=list(tags(slot)),
                ttl_ms=None if math.isinf(expires(slot)) else round((expires(slot) - now) * 1000),
                load_us=slot.rare.load_us if slot.rare else 0,
            )
            return facts

    def sweep_steps(self, batch: int, cursor: dict[str, Any] | None) -> Steps[SweepReport]:  # noqa: ARG002
        """Sweep in one step: nothing here is slow enough to be cut in batches."""
        with self._lock:
            report = self._sweep()
        yield Step(report.scanned, report.scanned, 0, {}, report, last=True)

    def _sweep(self) -> SweepReport:
        """Drop what is dead; retire the bans that no lease under way is older than."""
        store = self._store
        scanned, bans = len(store.slots), len(store.bans)
        dead = store.drop_dead()
        self._forget_leases(self._clock())
        self._floor = min((lease.stamp.seq for lease, _ in store.leases.values()), default=store.head)
        store.bans = store.bans.above(self._floor)
        return SweepReport(scanned, dead, 0, bans - len(store.bans), 0, complete=True)

    def _forget_leases(self, now: float) -> None:
        leases = self._store.leases
        for place in [place for place, (_, deadline) in leases.items() if now >= deadline]:
            del leases[place]

    def evict_steps(
        self,
        target_bytes: int | None,
        batch: int,  # noqa: ARG002
        cursor: dict[str, Any] | None,  # noqa: ARG002
        stay: float,  # noqa: ARG002 - its bound is kept by every write
    ) -> Steps[EvictReport]:
        """Go down to the low watermark of what is bounded, bytes or entries, or to as much as `target_bytes` says."""
        store = self._store
        with self._lock:
            before, most = store.full()
            scanned, dead = len(store.slots), self._sweep().deleted
            target = round(most * self._config.low_watermark)
            if target_bytes is not None:
                target = target_bytes
            elif before <= most * self._config.high_watermark:
                target = before
            unread = store.shrink(target)
            after, _ = store.full()
        reason = "reached the target" if dead or unread else "below the high watermark"
        report = EvictReport(before, after, target, scanned, dead, least_worth=unread, reason=reason)
        yield Step(scanned, scanned, 0, {}, report, last=True)

    def stored_name(self, tenant_id: str | None, key: str) -> str:
        return f"{tenant_field(tenant_id)}:{key}"

    @asking_nobody
    def change(self, change: Change) -> Changed:
        before = self.placement
        self.placement = change.of(before, None)
        return Changed(
            self.placement, b"", before.num_shards if self.placement.facts() != before.facts() else None
        )

    @asking_nobody
    def tidy(self, cursors: Mapping[str, str], batch: int) -> Tidied:  # noqa: ARG002
        return Tidied({"": "0"}, 0, 0)  # all shards are in the same dict

    def place(self, placement: Placement) -> None:
        self.placement = placement  # nothing moves: all shards are in the same dict

    @asking_nobody
    def entries_by_shard(self) -> dict[int, int]:
        now = self._clock()
        counts = dict.fromkeys(range(self.placement.num_shards), 0)
        for slot in self._store.slots:
            if now < expires(slot):
                counts[self.placement.shard_of(*field_and_key(slot.place))] += 1
        return counts

    @asking_nobody
    def matching(self, rules: Sequence[Rule]) -> Matching:
        table, now = table_of(rules), self._clock()
        with self._lock:
            keys = [
                name_of(slot.place)[1]
                for slot in self._store.slots
                if not self._store.dead(slot, now) and table.kills(*field_and_key(slot.place), tags(slot), 0)
            ]
        return Matching(len(keys), 0, tuple(keys[:EXAMPLES]))

    @asking_nobody
    def usage(self) -> Usage:
        """Bytes are estimates: of every entry where they are bounded, otherwise of a sample."""
        entries, most, used = len(self), self._config.max_bytes, self._used_bytes()
        share = entries / self._config.max_size if most is None else used / most
        return Usage(entries, used, most or 0, share, self._counters.evictions)

    def _used_bytes(self) -> int:
        if self._config.max_bytes is not None:
            return self._store.bytes
        return of_sample(self._sample(_SAMPLE), len(self)).bytes

    @asking_nobody
    def node(self) -> Node:
        config = self._config
        return Node(
            used_bytes=self._used_bytes(),
            limit_bytes=config.max_bytes or 0,
            policy=config.eviction,
            rss_bytes=rss_bytes(),
            fragmentation=0.0,
            client_bytes=0,
            keys=len(self),
            evicted=self._counters.evictions,
            expired=0,
        )

    @asking_nobody
    def makeup(self, wanted: int) -> Makeup:
        return of_sample(self._sample(wanted), len(self))

    def _sample(self, wanted: int) -> list[Looked]:
        """Some of the entries, spread evenly; sizes are estimates."""
        with self._lock:
            slots = list(self._store.slots)
        chosen = slots[:: max(1, len(slots) // wanted)]
        return [
            Looked(
                *name_of(slot.place),
                entry_bytes(*name_of(slot.place), slot.value),
                slot.rare.load_us if slot.rare else 0,
            )
            for slot in chosen
        ]

    @asking_nobody
    def add_traffic(self, unflushed: Unflushed) -> None:
        """There is no fleet: the counts stay with the process."""

    @asking_nobody
    def traffic(self) -> dict[Group, Counts]:
        return {}

    @asking_nobody
    def ping(self) -> bool:
        return True

    def close(self) -> None:
        with self._lock:
            self._store.clear()

    def __len__(self) -> int:
        now, store = self._clock(), self._store
        with self._lock:
            return sum(not store.dead(slot, now) for slot in store.slots)
