"""How full a cache is and what fills it: the figures of its server or process, and a sample of its entries.

For the monitor, and through it for `stoker.tasks`, which adds what needs a past: slopes, rates and the time to full.
"""

import math
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from stoker.cache import memory_use, quotas, sampling
from stoker.cache.memory_use import whole
from stoker.cache.scan import Link
from stoker.cache.tenancy import tenant_field, tenant_of
from stoker.cache.traffic import family_of
from stoker.cache.wire import Operation

G = TypeVar("G", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Node:
    """One server, all nodes of a cluster, or for the memory backend this process.

    Attributes:
        used_bytes: What counts against the limit (the memory backend: estimated sizes of its entries).
        limit_bytes: `maxmemory` or `max_bytes`; 0: none.
        policy: The server's `maxmemory-policy`; the memory backend's `eviction`.
        rss_bytes: What the process takes of the machine; 0 where it does not tell.
        fragmentation: That by what it uses; 0 where it does not tell.
        client_bytes: Buffers of its clients.
        keys: Entries and all else that it holds.
        evicted, expired: Since it started.
        shares: How much of its own limit each node of a cluster uses; elsewhere none.
        missing: Nodes of a cluster that could not be asked: nothing here counts what they have.
    """

    used_bytes: int
    limit_bytes: int
    policy: str
    rss_bytes: int
    fragmentation: float
    client_bytes: int
    keys: int
    evicted: int
    expired: int
    shares: Mapping[str, float] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Of the limit, of a cluster that of the fullest node; 0 without one."""
        if self.shares:
            return max(self.shares.values())
        return self.used_bytes / self.limit_bytes if self.limit_bytes else 0.0


@dataclass(frozen=True, slots=True)
class Part:
    """What one tenant or family of keys takes, by a sample.

    Attributes:
        bytes, entries: Estimates.
        share: Of the bytes of all entries, 0 to 1.
        error: Half the width of the share's 95 % interval: the share is within it 19 times out of 20.
        load_us: Mean cost of a load; 0: nothing was loaded.
    """

    bytes: int
    entries: int
    share: float
    error: float
    load_us: int


@dataclass(frozen=True, slots=True)
class Makeup:
    """What the entries are, by a sample.

    Attributes:
        sampled: Entries looked at.
        entries, bytes: Estimates of all.
        tenants: Tenant to his part; None is the shared key space.
        families: The beginning of keys up to their first ':' to its part.
        used_bytes, limit_bytes: As in `Node`, of the server that was sampled; of the memory backend 0.
        missing: Nodes of a cluster that could not be asked: nothing here counts what they have.
    """

    sampled: int
    entries: int
    bytes: int
    tenants: Mapping[str | None, Part]
    families: Mapping[str, Part]
    used_bytes: int = 0
    limit_bytes: int = 0
    missing: tuple[str, ...] = ()

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each encoded tenant."""
        return {tenant_field(tenant): part.bytes for tenant, part in self.tenants.items()}

    def room(self, low_watermark: float) -> int:
        """Of which tenants' shares are, see `quotas.room`."""
        return quotas.room(self.bytes, self.used_bytes, self.limit_bytes, low_watermark)


def node() -> Operation[Node]:
    """Ask the server. Two round trips in one, no key is touched."""
    answer = yield (("INFO", "memory", "stats"), ("DBSIZE",))
    found = memory_use.facts(answer.reply(0))
    use = memory_use.of(found)
    return Node(
        use.used,
        use.limit,
        use.policy,
        whole(found, "used_memory_rss"),
        float(found.get("mem_fragmentation_ratio", 0)),
        whole(found, "mem_clients_normal") + whole(found, "mem_clients_slaves"),
        int(answer.reply(1)),
        whole(found, "evicted_keys"),
        whole(found, "expired_keys"),
    )


class Looked(NamedTuple):
    """One entry of a sample, with the bytes it takes and what its load cost (0: not known)."""

    tenant_id: str | None
    key: str
    size: int
    load_us: int


def makeup(link: Link, wanted: int) -> Operation[Makeup]:
    """Draw a sample and see what it is made of."""
    use = yield from memory_use.read()
    sample = yield from sampling.draw(link, wanted, counted=use.counted)
    looked = [
        Looked(tenant_of(one.tenant), one.seen.name.key, one.size, one.seen.meta.load_us)
        for one in sample.weighed
    ]
    found = of_sample(looked, sample.entries)
    return replace(found, used_bytes=use.used, limit_bytes=use.limit)


def of_sample(looked: Sequence[Looked], entries: float) -> Makeup:
    """What a sample of so many entries is made of."""
    each = entries / len(looked) if looked else 0.0
    size = round(each * sum(one.size for one in looked))
    tenants = _parts(looked, each, lambda one: one.tenant_id)
    return Makeup(
        len(looked), round(entries), size, tenants, _parts(looked, each, lambda one: family_of(one.key))
    )


def added_up(many: Sequence[Makeup]) -> Makeup:
    """What is stored on several nodes."""
    size = sum(one.bytes for one in many)
    return Makeup(
        sum(one.sampled for one in many),
        sum(one.entries for one in many),
        size,
        _sums([one.tenants for one in many], size),
        _sums([one.families for one in many], size),
        sum(one.used_bytes for one in many),
        added_limit([one.limit_bytes for one in many]),
    )


def added_limit(limits: Sequence[int]) -> int:
    """The limit of several nodes together; 0, none, if one has none."""
    return sum(limits) if all(limits) else 0


def _sums(many: Sequence[Mapping[G, Part]], size: int) -> dict[G, Part]:
    return {
        name: _sum([parts[name] for parts in many if name in parts], size)
        for name in {name: None for parts in many for name in parts}
    }


def _sum(parts: Sequence[Part], size: int) -> Part:
    """The part of several nodes; their errors are independent of each other."""
    taken, entries = sum(one.bytes for one in parts), sum(one.entries for one in parts)
    wholes = [one.bytes / one.share if one.share else 0.0 for one in parts]
    error = math.hypot(*(one.error * whole for one, whole in zip(parts, wholes, strict=True)))
    cost = sum(one.load_us * one.entries for one in parts if one.load_us)
    known = sum(one.entries for one in parts if one.load_us)
    return Part(
        taken,
        entries,
        taken / size if size else 0.0,
        error / size if size else 0.0,
        round(cost / known) if known else 0,
    )


def _parts(looked: Sequence[Looked], each: float, group_of: Callable[[Looked], G]) -> dict[G, Part]:
    groups: dict[G, list[Looked]] = {}
    for one in looked:
        groups.setdefault(group_of(one), []).append(one)
    sizes = {name: [one.size for one in group] for name, group in groups.items()}
    return {
        name: Part(*share, load_us=_mean([one.load_us for one in groups[name] if one.load_us]))
        for name, share in sampling.shares(sizes, each).items()
    }


def _mean(costs: Sequence[int]) -> int:
    return round(sum(costs) / len(costs)) if costs else 0


def rss_bytes() -> int:
    """What this process takes of the machine's memory; 0 where that is not told."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
