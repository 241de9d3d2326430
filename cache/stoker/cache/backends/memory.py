"""Entries in this process, least recently used first out: for tests, single processes, and as a drop-in.

Follows the same rules as Redis (stamps, leases, tokens, bans) under one lock. Values are kept as they are, not
copied: who changes one changes what the cache returns. After a fork the child starts empty.
"""

import itertools
import math
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from stoker.cache.backends import Write
from stoker.cache.bans import BanTable, Kind, Rule
from stoker.cache.caps import CAPS
from stoker.cache.entry import Stamp
from stoker.cache.evict import EvictReport
from stoker.cache.flight import Hit
from stoker.cache.options import CacheConfig
from stoker.cache.programs import Steps
from stoker.cache.protocol import LEASE, TOKEN, Asked, Busy, Lease, Name
from stoker.cache.shards import Placement
from stoker.cache.stats import Counters
from stoker.cache.steps import Step
from stoker.cache.sweep import SweepReport
from stoker.cache.tenancy import tenant_field
from stoker.cache.traffic import Counts, Group
from stoker.cache.usage import Usage
from stoker.cache.wire import asking_nobody

_SAMPLE = 1000
"""Values whose size stands for all."""
_MOST_LEASES = 1000
"""Leases kept before the expired ones are forgotten."""

Place = tuple[str, str]
"""An encoded tenant and a key."""


class _Slot(NamedTuple):
    value: Any
    expires: float
    soft: float
    seq: int
    tags: tuple[str, ...]
    load_us: int


class MemoryBackend:
    """One shard in a dict.

    Args:
        config: Gives `max_size`, `max_load` and the watermarks.
        counters: Of the cache that this backend serves.
        clock: Seconds that never go back; tests pass their own.
    """

    def __init__(
        self, config: CacheConfig, counters: Counters, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._config = config
        self._counters = counters
        self._clock = clock
        self._secrets = itertools.count()
        self._placement = Placement()
        self.forked()

    def forked(self) -> None:
        self._lock = threading.Lock()
        self.slots: OrderedDict[Place, _Slot] = OrderedDict()
        self._leases: dict[Place, tuple[Lease, float]] = {}
        self._lease_limit = _MOST_LEASES
        self._bans = BanTable()
        self._most_bans = CAPS.many_bans
        """Kept before a sweep runs inside an invalidation, so that no thread is needed to stay bounded."""
        self._head = 1
        self._floor = 0

    @asking_nobody
    def read(self, tenant_id: str | None, key: str, type: Any = None) -> Hit | None:  # noqa: ARG002 - kept as they are
        name = tenant_field(tenant_id), key
        with self._lock:
            return self._hit(name)

    @asking_nobody
    def read_many(self, tenant_id: str | None, keys: Sequence[str], type: Any = None) -> dict[str, Hit]:  # noqa: ARG002
        field = tenant_field(tenant_id)
        with self._lock:
            return {key: hit for key in keys if (hit := self._hit((field, key))) is not None}

    def _hit(self, name: Place) -> Hit | None:
        slot = self.slots.get(name)
        if slot is None:
            return None
        now = self._clock()
        if now >= slot.expires or self._bans.kills(*name, slot.tags, slot.seq):
            del self.slots[name]
            return None
        self.slots.move_to_end(name)
        return Hit(slot.value, now >= slot.soft, (slot.expires - now) * 1000, slot.load_us)

    @asking_nobody
    def acquire(self, names: Sequence[Name], type: Any = None) -> list[tuple[Lease | Busy, Hit | None]]:  # noqa: ARG002
        with self._lock:
            return [(self._lease(*name), self._hit((tenant_field(name[0]), name[1]))) for name in names]

    def _lease(self, tenant_id: str | None, key: str) -> Lease | Busy:
        held = self._held((tenant_field(tenant_id), key))
        if held is not None:
            return Busy(held.secret[:1] == TOKEN)
        return self._grant(tenant_id, key, LEASE, self._config.max_load)

    def _grant(self, tenant_id: str | None, key: str, kind: bytes, seconds: float) -> Lease:
        lease = Lease(tenant_id, key, b"%s%d" % (kind, next(self._secrets)), Stamp(b"", self._head))
        now = self._clock()
        if len(self._leases) >= self._lease_limit:  # tokens that were never used
            self._forget_leases(now)
            self._lease_limit = max(_MOST_LEASES, 2 * len(self._leases))
        self._leases[tenant_field(tenant_id), key] = lease, now + seconds
        return lease

    def _held(self, name: Place) -> Lease | None:
        lease, deadline = self._leases.get(name, (None, 0.0))
        return lease if self._clock() < deadline else None

    @asking_nobody
    def snapshot(self, tenant_id: str | None, key: str, hold_ms: int) -> Lease:
        with self._lock:
            return self._grant(tenant_id, key, TOKEN, hold_ms / 1000)

    @asking_nobody
    def fill(self, fills: Sequence[tuple[Lease, Write]]) -> list[bool]:
        with self._lock:
            return [self._fill(lease, write) for lease, write in fills]

    def _fill(self, lease: Lease, write: Write) -> bool:
        name = tenant_field(lease.tenant_id), lease.key
        if self._held(name) != lease:
            return False
        del self._leases[name]
        if not self._lives(lease, write.tags):
            return False
        self._put(name, write, lease.stamp.seq)
        return True

    def _put(self, name: Place, write: Write, seq: int) -> None:
        now = self._clock()
        expires = now + write.ttl_ms / 1000 if write.ttl_ms else math.inf
        soft = now + write.soft_ttl_ms / 1000 if write.soft_ttl_ms else math.inf
        self.slots[name] = _Slot(write.value, expires, soft, seq, write.tags, write.load_us)
        self.slots.move_to_end(name)
        while len(self.slots) > self._config.max_size:
            self.slots.popitem(last=False)
            self._counters.evictions += 1

    @asking_nobody
    def renew(self, leases: Sequence[Lease]) -> None:
        """Nothing to do: a loader in this process cannot be lost, so its lease lasts `max_load` at once."""

    @asking_nobody
    def release(self, leases: Sequence[Lease]) -> None:
        with self._lock:
            for lease in leases:
                name = tenant_field(lease.tenant_id), lease.key
                if self._leases.get(name, (None, 0.0))[0] == lease:
                    del self._leases[name]

    def _lives(self, lease: Lease, tags: tuple[str, ...]) -> bool:
        if lease.stamp.seq < self._floor:
            return False  # a ban that kills it may have retired
        return not self._bans.kills(tenant_field(lease.tenant_id), lease.key, tags, lease.stamp.seq)

    @asking_nobody
    def store(self, tenant_id: str | None, writes: Sequence[tuple[str, Write]]) -> list[bool]:
        field = tenant_field(tenant_id)
        with self._lock:
            for key, write in writes:
                self._leases.pop((field, key), None)
                self._put((field, key), write, self._head)
        return [True] * len(writes)

    @asking_nobody
    def ask_refresh(self, tenant_id: str | None, key: str) -> Asked:  # noqa: ARG002
        return Asked.NOW  # this process remembers by itself

    @asking_nobody
    def refreshed(self, tenant_id: str | None, key: str) -> None:
        """There is no note of it."""

    @asking_nobody
    def delete(self, tenant_id: str | None, key: str) -> bool:
        name = tenant_field(tenant_id), key
        with self._lock:
            self._leases.pop(name, None)
            there = self._hit(name) is not None
            self.slots.pop(name, None)
            return there

    @asking_nobody
    def ban(self, rules: Sequence[Rule]) -> None:
        with self._lock:
            self._head += 1
            for rule in rules:
                self._bans.add(rule, self._head)
            self._keep_short({rule.tenant for rule in rules})

    def _keep_short(self, tenants: Iterable[str]) -> None:
        """Sweep when there are many bans; what a lease that is held for long keeps alive becomes one ban a tenant."""
        if len(self._bans) > self._most_bans:
            self._sweep()
            self._most_bans = max(CAPS.many_bans, 2 * len(self._bans))
        for tenant in tenants:
            if CAPS.exceeded_by(self._bans.size_of(tenant)):
                self._sweep()
                if CAPS.exceeded_by(self._bans.size_of(tenant)):
                    self._bans.add(Rule(Kind.TENANT, tenant, ""), self._head)
                    self._counters.coalesced += 1

    @asking_nobody
    def explain(self, tenant_id: str | None, key: str) -> dict[str, Any]:
        name = tenant_field(tenant_id), key
        with self._lock:
            slot, now = self.slots.get(name), self._clock()
            facts: dict[str, Any] = {"state": "absent", "head": self._head, "bans": len(self._bans)}
            _, deadline = self._leases.get(name, (None, now))
            facts["lease_ms"] = round((deadline - now) * 1000) if now < deadline else None
            if slot is None or now >= slot.expires:
                return facts
            facts.update(
                state="banned" if self._bans.kills(*name, slot.tags, slot.seq) else "live",
                seq=slot.seq,
                tags=list(slot.tags),
                ttl_ms=None if math.isinf(slot.expires) else round((slot.expires - now) * 1000),
                load_us=slot.load_us,
            )
            return facts

    def sweep_steps(self, batch: int, cursor: dict[str, Any] | None) -> Steps[SweepReport]:  # noqa: ARG002
        """Sweep in one step: nothing here is slow enough to be cut in batches."""
        with self._lock:
            report = self._sweep()
        yield Step(report.scanned, report.scanned, 0, {}, report, last=True)

    def _sweep(self) -> SweepReport:
        """Drop what is dead; retire the bans that no lease under way is older than."""
        now, scanned, bans = self._clock(), len(self.slots), len(self._bans)
        dead = [n for n, s in self.slots.items() if now >= s.expires or self._bans.kills(*n, s.tags, s.seq)]
        for name in dead:
            del self.slots[name]
        self._forget_leases(now)
        self._floor = min((lease.stamp.seq for lease, _ in self._leases.values()), default=self._head)
        self._bans = self._bans.above(self._floor)
        return SweepReport(scanned, len(dead), 0, bans - len(self._bans), 0, complete=True)

    def _forget_leases(self, now: float) -> None:
        self._leases = {name: held for name, held in self._leases.items() if now < held[1]}

    def evict_steps(
        self,
        target_bytes: int | None,
        batch: int,  # noqa: ARG002
        cursor: dict[str, Any] | None,  # noqa: ARG002
    ) -> Steps[EvictReport]:
        """Go down to the low watermark of `max_size`, or to as many entries as `target_bytes` says."""
        with self._lock:
            before = len(self.slots)
            dead = self._sweep().deleted
            target = round(self._config.max_size * self._config.low_watermark)
            if target_bytes is not None:
                target = target_bytes
            elif before <= self._config.max_size * self._config.high_watermark:
                target = before
            unread = max(0, len(self.slots) - target)
            for _ in range(unread):
                self.slots.popitem(last=False)
            self._counters.evictions += unread
            after = len(self.slots)
        reason = "reached the target" if dead or unread else "below the high watermark"
        report = EvictReport(before, after, target, before, dead, 0, unread, reason)
        yield Step(before, before, 0, {}, report, last=True)

    def stored_name(self, tenant_id: str | None, key: str) -> str:
        return f"{tenant_field(tenant_id)}:{key}"

    def place(self, placement: Placement) -> None:
        self._placement = placement  # nothing moves: all shards are in the same dict

    @asking_nobody
    def entries_by_shard(self) -> dict[int, int]:
        now = self._clock()
        counts = dict.fromkeys(range(self._placement.num_shards), 0)
        with self._lock:
            for place, slot in self.slots.items():
                if now < slot.expires:
                    counts[self._placement.shard_of(*place)] += 1
        return counts

    @asking_nobody
    def usage(self) -> Usage:
        """Bytes are those of a sample of values and keys, without what they refer to."""
        entries = len(self)
        with self._lock:
            sample = [(*place, slot.value) for place, slot in itertools.islice(self.slots.items(), _SAMPLE)]
        size = sum(sys.getsizeof(part) for parts in sample for part in parts)
        used = size * entries // len(sample) if sample else 0
        return Usage(entries, used, 0, entries / self._config.max_size, self._counters.evictions)

    @asking_nobody
    def add_traffic(self, groups: Mapping[Group, Counts]) -> None:
        """There is no fleet: the counts stay with the process."""

    @asking_nobody
    def traffic(self) -> dict[Group, Counts]:
        return {}

    @asking_nobody
    def ping(self) -> bool:
        return True

    def close(self) -> None:
        with self._lock:
            self.slots.clear()

    def __len__(self) -> int:
        now = self._clock()
        with self._lock:
            return sum(
                now < s.expires and not self._bans.kills(*n, s.tags, s.seq) for n, s in self.slots.items()
            )
