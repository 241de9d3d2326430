"""The keys that are read most, as they are known on the state server: for each tenant its hottest, decayed.

A merge is one script for each tenant, so two at once add up. Reads are told a second, for tenants have been watched for
different times. Who collects them is the business of `hot_keys`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stoker.cache import InvalidName, keys
from stoker.cache.tenancy import tenant_field, tenant_of
from stoker.config import HotSettings
from stoker.tasks import state_server
from stoker.tasks.record import real
from stoker.tasks.state_server import bounded

KEPT_MS = 7 * 86_400_000
"""How long what was learned outlives the last read."""
_SPANS = 4
"""In a half-life."""
_SHORTEST_MS = 10_000
"""A tenant that was first seen just now counts as watched for so long."""
MOST_TOLD = 10_000
"""Keys of a tenant."""
_LEAST_COUNTED = 100
_AT_ONCE = 2000
_TENANTS_AT_ONCE = 10


@dataclass(frozen=True, slots=True)
class HotKey:
    """A key and how often it is read.

    Attributes:
        rate: Reads a second, by the whole fleet; what was read longer ago counts less.
        share: Of all reads of its tenant, 0 to 1.
    """

    tenant_id: str | None
    key: str
    rate: float
    share: float


@dataclass(frozen=True, slots=True)
class Watched:
    """What is known of a tenant's reads; see hot_merge.lua.

    Attributes:
        older: What a read before the present span counts, below 1.
        newer: What one in it counts; 1 unless it should have ended.
        reads: All of them, decayed.
        seconds: In what time, decayed likewise.
    """

    older: float
    newer: float
    reads: float
    seconds: float

    @property
    def rate(self) -> float:
        return self.reads / self.seconds


class HotStore:
    """The hot keys of one namespace. Every method may raise `StateUnavailable`."""

    def __init__(self, url: str, namespace: str, settings: HotSettings) -> None:
        self._namespace = namespace
        self._tenants = keys.hot_tenants(namespace)
        self._settings = settings
        self._half_life_ms = settings.half_life * 1000
        self._span_ms = self._half_life_ms / _SPANS
        self._redis = state_server.connect(url)
        self._merge = state_server.script(self._redis, "hot_merge")

    def close(self) -> None:
        self._redis.close()

    def merge(self, reads: Mapping[str | None, Mapping[str, int]]) -> None:
        """Add reads, by tenant and key. Of too many tenants those that are read least are forgotten."""
        with bounded():
            tenants = max(self._redis.hlen(self._tenants), len(reads))
        most = max(self._settings.keys // min(tenants, self._settings.tenants), _LEAST_COUNTED)
        for tenant, counts in reads.items():
            field = tenant_field(tenant)
            names = [self._tenants, *self._lists(field)]
            given = [field, self._span_ms, self._half_life_ms, most, KEPT_MS]
            for part in _parts(counts):
                with bounded():
                    self._merge(keys=names, args=[*given, *part])
        self._forget_the_coldest()

    def tenants(self) -> dict[str | None, Watched]:
        """What is known of each tenant's reads."""
        with bounded():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.hgetall(self._tenants)
            pipeline.time()
            found, (seconds, micros) = pipeline.execute()
        now_ms = seconds * 1000 + micros / 1000
        known = {field: self._watched(text, now_ms) for field, text in found.items() if _is_tenant(field)}
        return {tenant_of(field): watched for field, watched in known.items() if watched is not None}

    def hottest(self, tenants: Mapping[str | None, Watched]) -> list[HotKey]:
        """The hottest keys of these tenants, hottest first."""
        found: list[HotKey] = []
        known = list(tenants.items())
        for start in range(0, len(known), _TENANTS_AT_ONCE):
            some = known[start : start + _TENANTS_AT_ONCE]
            with bounded():
                pipeline = self._redis.pipeline(transaction=False)
                for tenant, _ in some:
                    for name in self._lists(tenant_field(tenant)):
                        pipeline.zrevrange(name, 0, MOST_TOLD - 1, withscores=True)
                lists = pipeline.execute()
            for number, (tenant, watched) in enumerate(some):
                past, span = lists[2 * number : 2 * number + 2]
                found += _keys(tenant, watched, past, span)[:MOST_TOLD]
        return sorted(found, key=lambda hot: (-hot.rate, hot.tenant_id or "", hot.key))

    def _watched(self, text: str, now_ms: float) -> Watched | None:
        try:
            began, past, past_ms, reads = map(real, text.split(" "))
        except ValueError:
            return None  # nobody of ours wrote it; the next merge begins anew
        age = max(now_ms - began, 0.0)
        older = 2 ** (-age / self._half_life_ms)
        newer = 2 ** (-max(age - self._span_ms, 0.0) / self._half_life_ms)
        watched_ms = max(past_ms * older + age, _SHORTEST_MS)
        return Watched(older, newer, past * older + reads * newer, watched_ms / 1000)

    def _forget_the_coldest(self) -> None:
        tenants = self.tenants()
        coldest = sorted(tenants, key=lambda tenant: tenants[tenant].rate)
        for tenant in coldest[: max(len(tenants) - self._settings.tenants, 0)]:
            field = tenant_field(tenant)
            with bounded():
                pipeline = self._redis.pipeline()
                pipeline.hdel(self._tenants, field)
                pipeline.unlink(*self._lists(field))
                pipeline.execute()

    def _lists(self, field: str) -> tuple[str, str]:
        return keys.hot_keys(self._namespace, field), keys.hot_span(self._namespace, field)


def _is_tenant(field: str) -> bool:
    try:
        return tenant_field(tenant_of(field)) == field
    except InvalidName:
        return False


def _parts(counts: Mapping[str, int]) -> Iterator[list[Any]]:
    items = list(counts.items())
    for start in range(0, len(items), _AT_ONCE):
        yield [part for item in items[start : start + _AT_ONCE] for part in item]


def _keys(
    tenant: str | None,
    watched: Watched,
    past: Iterable[tuple[str, float]],
    span: Iterable[tuple[str, float]],
) -> list[HotKey]:
    reads = {key: count * watched.older for key, count in past}
    for key, count in span:
        reads[key] = reads.get(key, 0.0) + count * watched.newer
    ranked = sorted(reads.items(), key=lambda item: (-item[1], item[0]))
    total = max(watched.reads, 1e-9)
    return [HotKey(tenant, key, count / watched.seconds, min(count / total, 1.0)) for key, count in ranked]
