"""What a cache that is too small loses, by the server's own policy and with Stoker's eviction.

    python -m benchmarks.pressure [--seed 1] [--only 'volatile-lfu,stoker volatile-lfu'] [--quick]

Replays trace M of `pressure_traces` (N is `pressure_noisy`'s) against an embedded server whose memory is 10 % of what
all entries would take, through the cache's own reads and stores. A miss costs what its load would have cost; nobody
sleeps, the costs are added up. With Stoker, `Cache.evict` runs whenever a look after some requests finds memory above
the high watermark, as `stoker.evict` does by the clock; the trace waits for it, because it is played hundreds of times
faster than such requests come.
"""

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import redis

from benchmarks.harness import Contender, Settings, Table, run
from benchmarks.pressure_traces import KEYS, REQUESTS, SCANNER, Asked, Mix, mixed
from stoker.cache import Cache, CacheConfig, CacheMonitor, evict, memory_use
from stoker.cache.backends import Write
from stoker.cache.quotas import Quotas
from stoker.worker.embedded import embedded_server

MEMORY = 0.1
"""The server's memory, as a share of what all entries take."""
BATCH = 50
LOOK_EVERY = 500
"""Requests between two looks at the server's memory."""
MEASURE_EVERY = 1000
"""Between two samples, where there are hard quotas; if somebody is above his, an eviction follows."""
KEPT_S = 3600
TTL_MS = 86_400_000
NO_QUOTAS = Quotas()


@dataclass
class Outcome:
    """Of one replay; costs in seconds."""

    hits: dict[str, int] = field(default_factory=dict)
    misses: dict[str, int] = field(default_factory=dict)
    cost_s: float = 0.0
    lost: int = 0
    evictions: int = 0
    by_server: int = 0

    def hit_rate(self, of: Callable[[str], bool] = lambda _: True) -> float:
        """Percent, of those tenants."""
        hits = sum(count for tenant, count in self.hits.items() if of(tenant))
        return 100 * hits / (hits + sum(count for tenant, count in self.misses.items() if of(tenant)))


@dataclass(frozen=True)
class Way:
    """A policy of the server, and whether the job helps it."""

    policy: str
    job: bool


def replay(mix: Mix, way: Way, memory_bytes: int) -> Outcome:
    """Play the trace on a server of its own."""
    outcome = Outcome()
    for _ in play(mix, way, memory_bytes, outcome):
        pass
    return outcome


def side_by_side(plays: Iterable[Iterator[float]]) -> None:
    """Play several traces in the same time, so that the servers' counters of reads, which age by the clock, age alike.

    They are to take as long, whoever has more to do: the one that is behind goes on.
    """
    played = dict.fromkeys(plays, 0.0)
    while played:
        behind = min(played, key=played.__getitem__)
        played[behind] = next(behind, math.inf)
        if played[behind] == math.inf:
            del played[behind]


def play(
    mix: Mix, way: Way, memory_bytes: int, outcome: Outcome, limits: Quotas = NO_QUOTAS
) -> Iterator[float]:
    """Play the trace on a server of its own, telling after each batch which share of it has been played."""
    with embedded_server("cache", cache_bytes=0) as server, redis.Redis.from_url(server.url) as client:
        config = CacheConfig(backend="redis", redis_url=server.url, compress_above=None, timeout=300)
        with Cache(config) as cache:
            cache.set("warm-up", 1)
            client.config_set("maxmemory-policy", way.policy)
            client.config_set("maxmemory", client.info("memory")["used_memory"] + memory_bytes)
            CacheMonitor(cache).tell_quotas(limits, (), KEPT_S)
            full: list[str] = []
            for start in range(0, len(mix.asked), BATCH):
                if way.job and start % LOOK_EVERY == 0:
                    _look(cache, outcome)
                if way.job and limits.any_hard and start % MEASURE_EVERY == 0:
                    full = _full(cache, limits, full)
                    if full:
                        _evict(cache, outcome)
                _batch(cache, mix, mix.asked[start : start + BATCH], outcome)
                yield start / len(mix.asked)
            outcome.by_server = client.info("stats")["evicted_keys"]


def _look(cache: Cache, outcome: Outcome) -> None:
    use = cache._run(memory_use.read())
    if use.share > cache.config.high_watermark:
        _evict(cache, outcome)


def _evict(cache: Cache, outcome: Outcome) -> None:
    cache.evict()
    outcome.evictions += 1


def _full(cache: Cache, limits: Quotas, before: list[str]) -> list[str]:
    """What `stoker.watch` does where there are hard quotas: tell who is full."""
    monitor = CacheMonitor(cache)
    full = monitor.get_full(limits, monitor.get_makeup(), before)
    monitor.tell_quotas(limits, full, KEPT_S)
    return full


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
    config = CacheConfig(backend="redis", compress_above=None, redis_url="redis://")
    with (
        embedded_server("cache", cache_bytes=0) as server,
        redis.Redis.from_url(server.url) as client,
        Cache(replace(config, redis_url=server.url)) as cache,
    ):
        cache.set("item:0", 1, "tenant-0")
        before = int(client.info("memory")["used_memory"])
        cache.set_many({f"item:{number}": bytes(400) for number in range(10_000)}, "tenant-0")
        return (int(client.info("memory")["used_memory"]) - before) // 10_000 - 400


def memory_bytes(mix: Mix, overhead: int) -> int:
    """What the server gets: 10 % of what the entries of all but the scanner take."""
    sizes = [size for (tenant, _), size in mix.sizes.items() if tenant != SCANNER]
    return round(MEMORY * (sum(sizes) + overhead * len(sizes)))


def _way(policy: str, *, job: bool = False) -> Contender:
    return Contender(f"stoker {policy}" if job else policy, lambda: Way(policy, job))


CONTENDERS = (
    *(
        _way(policy)
        for policy in ("allkeys-lru", "allkeys-lfu", "volatile-lru", "volatile-lfu", "volatile-ttl")
    ),
    *(_way(policy, job=True) for policy in ("volatile-lfu", "allkeys-lfu", "volatile-lru", "noeviction")),
)


def measure(settings: Settings) -> Iterator[Table]:
    keys, requests = (20_000, 20_000) if settings.quick else (KEYS, REQUESTS)
    mix = mixed(settings.seed, keys, requests)
    room = memory_bytes(mix, overhead_bytes())
    found = {one.name: replay(mix, one.open(), room) for one in settings.contenders}
    reference = found.get("volatile-lfu")
    rows: list[list[str | float]] = [
        [
            name,
            outcome.hit_rate(),
            outcome.cost_s,
            100 * (1 - outcome.cost_s / reference.cost_s) if reference else "",
            outcome.evictions,
            outcome.by_server,
            outcome.lost,
        ]
        for name, outcome in found.items()
    ]
    yield Table(
        f"Trace M, seed {settings.seed}",
        (
            "",
            "hits, %",
            "miss cost, s",
            "below volatile-lfu, %",
            "evictions",
            "evicted by the server",
            "not stored",
        ),
        rows,
        f"{requests:,} requests for {keys:,} keys on a server with {room / 2**20:.1f} MiB for entries.",
        plot="miss cost, s",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    evict.REST = 0.0  # the trace waits: there is nobody to make way for
    return run("pressure", CONTENDERS, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
