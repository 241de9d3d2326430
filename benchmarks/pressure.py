"""What a cache that is too small loses, by the server's own policy and with Stoker's eviction.

    python -m benchmarks.pressure [--trace M|N] [--seed 1] [--only volatile-lfu,...] [--quick]

Replays the traces of `pressure_traces` against an embedded server whose memory is 10 % of what all entries would take,
through the cache's own reads and stores. A miss costs what its load would have cost; nobody sleeps, the costs are added
up. "With the job": whenever a look after some requests finds memory above the high watermark, `Cache.evict` runs, as
`stoker.evict` does by the clock; the trace waits for it, because it is played hundreds of times faster than such
requests come.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import redis

from benchmarks import pressure_traces
from benchmarks.pressure_traces import Asked, Mix
from stoker.cache import Cache, CacheConfig, memory_use, quotas
from stoker.cache.backends import Write
from stoker.cache.quotas import Copy, Quotas
from stoker.worker.embedded import embedded_server

MEMORY = 0.1
"""The server's memory, as a share of what all entries take."""
BATCH = 50
LOOK_EVERY = 500
"""Requests between two looks at the server's memory."""
TTL_MS = 86_400_000
QUOTA = 0.1
"""Of each of the ten tenants of trace N, as a share of `maxmemory`."""
SCANNER = "tenant-9"


@dataclass
class Outcome:
    """Of one replay; times in seconds."""

    hits: dict[str, int] = field(default_factory=dict)
    misses: dict[str, int] = field(default_factory=dict)
    cost_s: float = 0.0
    lost: int = 0
    evictions: int = 0
    by_server: int = 0
    evicting_s: float = 0.0
    took_s: float = 0.0

    def hit_rate(self, of: Callable[[str], bool] = lambda _: True) -> float:
        """Percent, of those tenants."""
        hits = sum(count for tenant, count in self.hits.items() if of(tenant))
        return 100 * hits / (hits + sum(count for tenant, count in self.misses.items() if of(tenant)))


@dataclass(frozen=True)
class Way:
    """A policy of the server, and whether the job helps it."""

    policy: str
    job: bool


def replay(mix: Mix, way: Way, memory_bytes: int, limits: Quotas = Quotas()) -> Outcome:
    """Play the trace on a server of its own."""
    outcome = Outcome()
    with embedded_server("cache", cache_bytes=0) as server, redis.Redis.from_url(server.url) as client:
        config = CacheConfig(backend="redis", redis_url=server.url, compress_above=None, timeout=30)
        with Cache(config) as cache:
            cache.set("warm-up", 1)
            client.config_set("maxmemory-policy", way.policy)
            client.config_set("maxmemory", client.info("memory")["used_memory"] + memory_bytes)
            cache._run(quotas.write(cache._core.backend.quotas_key  # type: ignore[union-attr], Copy(limits)))
            began = time.perf_counter()
            for start in range(0, len(mix.asked), BATCH):
                if way.job and start % LOOK_EVERY == 0:
                    _look(cache, outcome)
                _batch(cache, mix, mix.asked[start : start + BATCH], outcome)
            outcome.took_s = time.perf_counter() - began
            outcome.by_server = client.info("stats")["evicted_keys"]
    return outcome


def _look(cache: Cache, outcome: Outcome) -> None:
    use = cache._run(memory_use.read())
    if use.share > cache.config.high_watermark:
        began = time.perf_counter()
        cache.evict()
        outcome.evicting_s += time.perf_counter() - began
        outcome.evictions += 1


def _batch(cache: Cache, mix: Mix, asked: Sequence[Asked], outcome: Outcome) -> None:
    backend = cache._core.backend
    by_tenant: dict[str, list[str]] = {}
    for tenant, key in asked:
        by_tenant.setdefault(tenant, []).append(key)
    for tenant, keys in by_tenant.items():
        unique = list(dict.fromkeys(keys))
        found = cache._run(backend.read_many(tenant, unique))
        missed = [key for key in unique if key not in found]
        outcome.hits[tenant] = outcome.hits.get(tenant, 0) + len(keys) - len(missed)
        outcome.misses[tenant] = outcome.misses.get(tenant, 0) + len(missed)
        writes = []
        for key in missed:
            cost_us = mix.costs_us[tenant, key]
            outcome.cost_s += cost_us / 1e6
            writes.append((key, Write(bytes(mix.sizes[tenant, key]), TTL_MS, 0, (), cost_us)))
        if writes:
            outcome.lost += cache._run(backend.store(tenant, writes)).count(False)


def overhead_bytes() -> int:
    """What an entry takes on the server besides its value."""
    with embedded_server("cache", cache_bytes=0) as server, redis.Redis.from_url(server.url) as client:
        with Cache(CacheConfig(backend="redis", redis_url=server.url, compress_above=None)) as cache:
            cache.set("item:0", 1, "tenant-0")
            before = client.info("memory")["used_memory"]
            cache.set_many({f"item:{number}": bytes(400) for number in range(10_000)}, "tenant-0")
            return (client.info("memory")["used_memory"] - before) // 10_000 - 400
