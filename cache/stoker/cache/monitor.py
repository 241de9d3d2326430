"""`CacheMonitor`: how well a cache is hit and how full it is; on Redis for the whole fleet."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from stoker.cache.backends.cluster import ClusterBackend
from stoker.cache.backends.redis import RedisBackend
from stoker.cache.engine import Cache
from stoker.cache.errors import ConfigError
from stoker.cache.evict import EvictReport
from stoker.cache.lives import Lives, lives
from stoker.cache.pressure import Makeup, Node
from stoker.cache.quotas import Quotas, over
from stoker.cache.tenancy import tenant_field, tenant_of
from stoker.cache.traffic import Counts, Group


@dataclass(frozen=True, slots=True)
class CacheMonitorConfig:
    """When a cache counts as under pressure.

    Attributes:
        pressure_percent: Of the limit, 1 to 100; None takes the cache's `high_watermark`.
    """

    pressure_percent: float | None = None

    def __post_init__(self) -> None:
        if self.pressure_percent is not None and not 1 <= self.pressure_percent <= 100:
            raise ConfigError(
                "pressure_percent", self.pressure_percent, "give a percentage from 1 to 100, or None"
            )


class CacheMonitor:
    """Watches one cache."""

    def __init__(self, cache: Cache, config: CacheMonitorConfig | None = None) -> None:
        self.config = config or CacheMonitorConfig()
        self._cache = cache

    def get_memory_usage(self) -> dict[str, Any]:
        """Hits, entries and memory.

        Returns:
            `hits`, `misses`, `total_requests`; `hit_rate` and `miss_rate` (0 to 1; both 0 without requests);
            `cache_size` (entries; on Redis estimated from a sample unless there are few); `memory_usage_bytes` and
            `limit_bytes` (0: no limit; on the memory backend the sizes of a sample of values, and no limit);
            `usage_percent` (0 to 100, of the limit, on memory of `max_size`); `evictions`; and `tenants` and
            `templates` (where no single registered one fits, keys up to their first ':'), each name to its hits,
            misses and rates. On Redis hits and
            misses are the fleet's, up to a few seconds old.

        Raises:
            CacheUnavailable: The server cannot be asked.
        """
        usage = self._cache._run(self._cache._core.backend.usage())
        groups = self._groups()
        hits = sum(counts.hits for counts in groups.values())
        misses = sum(counts.misses for counts in groups.values())
        return {
            **_rates(hits, misses),
            "total_requests": hits + misses,
            "cache_size": usage.entries,
            "memory_usage_bytes": usage.used_bytes,
            "limit_bytes": usage.limit_bytes,
            "usage_percent": round(usage.share * 100, 2),
            "evictions": usage.evictions,
            "tenants": _by((group[0], counts) for group, counts in groups.items()),
            "templates": _by((self._template(group[1]), counts) for group, counts in groups.items()),
        }

    def tenants(self) -> dict[str, int]:
        """The tenants for which this cache was read, on Redis by anybody of the fleet, and how often.

        Raises:
            CacheUnavailable: The server cannot be asked.
        """
        reads: dict[str, int] = {}
        for (tenant_id, _), counts in self._groups().items():
            if tenant_id is not None:
                reads[tenant_id] = reads.get(tenant_id, 0) + counts.hits + counts.misses
        return reads

    def get_reads(self) -> Mapping[Group, Counts]:
        """Hits and misses by tenant and family of keys (their beginning up to the first ':'); on Redis the fleet's.

        Raises:
            CacheUnavailable: The server cannot be asked.
        """
        return self._groups()

    def _template(self, family: str) -> str:
        fitting = [
            text for text in self._cache._core.registry.templates() if text.partition(":")[0] == family
        ]
        return fitting[0] if len(fitting) == 1 else f"{family}:*"

    def _groups(self) -> Mapping[Group, Counts]:
        if self._cache.backend == "memory":
            return self._cache._core.traffic.totals()
        self._cache._do(self._cache._core.flush_traffic())
        return self._cache._run(self._cache._core.backend.traffic())

    def get_lives(self) -> Lives:
        """Which lives of the ban log rule, and which server processes may answer; on the memory backend none.

        Raises:
            CacheUnavailable: The server cannot be asked.
        """
        backend = self._cache._core.backend
        return lives(self._cache._run(backend.views())) if isinstance(backend, RedisBackend) else Lives()

    def get_bans(self) -> list[int]:
        """How many rules of the ban log live, of each shard; on the memory backend none is told.

        Raises:
            CacheUnavailable: The server cannot be asked.
        """
        backend = self._cache._core.backend
        views = self._cache._run(backend.views()) if isinstance(backend, RedisBackend) else []
        return [len(view.bans) for view in views]

    def get_primaries(self) -> frozenset[str]:
        """Addresses of the primaries of the cluster, those without slots too; empty where there is no cluster.

        Raises:
            CacheUnavailable: The server cannot be asked.
        """
        backend = self._cache._core.backend
        if not isinstance(backend, ClusterBackend):
            return frozenset()
        known = self._cache._run(backend.census())
        return frozenset(member.node for member in known.members)

    def get_node(self) -> Node:
        """How full the server is (on the memory backend this process), and what it has evicted by itself.

        Of a cluster all nodes together. Those that do not answer are named; if none does, that is an error.

        Raises:
            CacheUnavailable: The server cannot be asked.
        """
        return self._cache._run(self._cache._core.backend.node())

    def get_makeup(self, sample: int = 1000) -> Makeup:
        """Whose the entries are and what they take, by a random sample; each share comes with its error.

        Of a cluster all nodes together, each sampled alike; as in `get_node`, those that do not answer are named.

        Raises:
            ConfigError: `sample` is below 1.
            CacheUnavailable: The server cannot be asked.
        """
        if sample < 1:
            raise ConfigError("sample", sample, "must be 1 or more")
        return self._cache._run(self._cache._core.backend.makeup(sample))

    def get_full(self, quotas: Quotas, makeup: Makeup, before: Iterable[str] = ()) -> list[str]:
        """The tenants that have more than their hard quotas, by this sample.

        Args:
            before: Those of the look before. They stay full until they are well below (`quotas.WELL_BELOW`).
        """
        room = makeup.room(self._cache.config.low_watermark)
        full = {tenant_field(tenant) for tenant in before}
        return [str(tenant_of(field)) for field in over(quotas, makeup.sizes, room, full).hard]

    def tell_quotas(self, quotas: Quotas, full: Iterable[str | None], kept: float) -> None:
        """Let every process know the quotas, and which tenants may store nothing more; forgotten after `kept` seconds.

        Raises:
            CacheUnavailable: The server cannot be asked.
        """
        backend = self._cache._core.backend
        if isinstance(backend, RedisBackend):
            fields = [tenant_field(tenant) for tenant in full]
            self._cache._run(backend.tell_quotas(quotas, fields, round(kept * 1000)))

    def check_memory_pressure(self) -> bool:
        """Whether usage is above the high mark.

        Raises:
            CacheUnavailable: The server cannot be asked.
        """
        high = self.config.pressure_percent
        if high is None:
            high = self._cache.config.high_watermark * 100
        return self._cache._run(self._cache._core.backend.usage()).share * 100 > high

    def handle_memory_pressure(self) -> EvictReport:
        """Evict down to the low watermark, if usage is above the high mark; see `Cache.evict`."""
        if not self.check_memory_pressure():
            return EvictReport(reason="no pressure")
        usage = self._cache._run(self._cache._core.backend.usage())
        low = self._cache.config.low_watermark
        return self._cache.evict(target_bytes=round(low * (usage.limit_bytes or self._cache.config.max_size)))


def _rates(hits: int, misses: int) -> dict[str, Any]:
    total = hits + misses
    return {
        "hits": hits,
        "misses": misses,
        "hit_rate": hits / total if total else 0.0,
        "miss_rate": misses / total if total else 0.0,
    }


def _by(pairs: Iterable[tuple[Any, Counts]]) -> dict[Any, dict[str, Any]]:
    sums: dict[Any, Counts] = {}
    for name, counts in pairs:
        before = sums.get(name, Counts(0, 0))
        sums[name] = Counts(before.hits + counts.hits, before.misses + counts.misses)
    return {name: _rates(*counts) for name, counts in sums.items()}
