"""Which keys are hot: learned from what the fleet reads, and given to those who warm.

    @warm_plan("popular", every="10m")
    def popular() -> Iterator[tuple[str | None, str]]:
        yield from hottest(1000)

Processes sample their reads and leave reports on the cache's server (`stoker.cache.hot`). A task of beat collects them
into `hot_store` and now and then takes a snapshot (`hot_snapshots`), which `hot_replay` warms after a cold start.
"""

from collections.abc import Callable, Iterable
from itertools import islice

from stoker.cache import Cache, CacheMonitor, hot_reports
from stoker.cache.hot import added_up
from stoker.cache.loaders import default_registry
from stoker.cache.patterns import compile_pattern
from stoker.tasks import names, runtime
from stoker.tasks.hot_store import HotKey
from stoker.tasks.runtime import Runtime

Pair = tuple[str | None, str]


def hottest(n: int, tenant_id: str | None = None) -> list[Pair]:
    """The most read keys that registered loaders can load, with their tenants, hottest first: for warm plans.

    Args:
        n: At most so many.
        tenant_id: Whose; None: of every tenant and of the shared key space, in one order.

    Raises:
        StateUnavailable: The state server does not answer.
    """
    return hottest_of(n, None if tenant_id is None else [tenant_id])


def hottest_of(n: int, tenants: Iterable[str | None] | None) -> list[Pair]:
    """As `hottest`, of several tenants. Raises likewise."""
    found = known(runtime.current(), tenants)
    return [(hot.tenant_id, hot.key) for hot in islice(filter(_can_be_loaded, found), n)]


def known(here: Runtime, tenants: Iterable[str | None] | None = None) -> list[HotKey]:
    """All that is known of these tenants' hot keys, or of everybody's, hottest first."""
    watched = here.hot.tenants()
    if tenants is not None:
        watched = {tenant: watched[tenant] for tenant in tenants if tenant in watched}
    return here.hot.hottest(watched)


def learn(here: Runtime, *, snapshot: bool = False) -> dict[str, int]:
    """Collect what was read since the last time, and take a snapshot if one is due, or in any case.

    Returns:
        `reports` collected, `reads` they stand for, and keys in the `snapshot`; 0: none was taken.

    Raises:
        CacheUnavailable: The cache does not answer; StateUnavailable: the state server. What was collected may be lost.
    """
    reports = hot_reports.collect(here.cache)
    reads = added_up(reports)
    if reads:
        here.hot.merge(reads)
    counted = sum(sum(keys.values()) for keys in reads.values())
    settings = here.settings.hot
    taken = 0
    if settings.replay and (snapshot or here.hot_snapshots.is_due(settings.snapshot_every)):
        best = known(here)[: settings.replay]
        taken = len(best) if here.hot_snapshots.take(life_of(here.cache), best) else 0
    return {"reports": len(reports), "reads": counted, "snapshot": taken}


def life_of(cache: Cache) -> str:
    """The name of the cache's present life: another one once any of its shards has begun cold.

    Raises:
        CacheUnavailable: The cache does not answer.
    """
    return ".".join(CacheMonitor(cache).get_lives().incarnations)


def hot_among(here: Runtime, invalidated: names.Invalidate) -> list[str]:
    """Of the hot keys of a tenant those that an invalidation names and that can be loaded, hottest first."""
    named = _named_by(invalidated)
    found = known(here, [invalidated.tenant_id])
    hot = (hot.key for hot in found if named(hot.key) and _can_be_loaded(hot))
    return list(islice(hot, invalidated.rewarm))


def _named_by(invalidated: names.Invalidate) -> Callable[[str], bool]:
    if invalidated.whole_tenant:
        return lambda key: True  # noqa: ARG005 - all are
    keys, tags = frozenset(invalidated.keys), frozenset(invalidated.tags)
    matches = compile_pattern(invalidated.pattern) if invalidated.pattern is not None else None

    def is_named(key: str) -> bool:
        return key in keys or (matches is not None and matches(key)) or not tags.isdisjoint(_tags_of(key))

    return is_named


def _tags_of(key: str) -> tuple[str, ...]:
    """Those that its loader gives it; what else an entry was stored with is not known here."""
    found = default_registry.find(key)
    return found[0].tags_for(found[1]) if found is not None else ()


def _can_be_loaded(hot: HotKey) -> bool:
    return default_registry.find(hot.key) is not None
