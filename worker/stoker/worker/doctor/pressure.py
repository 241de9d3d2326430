"""Who makes room when memory runs short, and whether that is enough."""

from collections.abc import Iterator

from stoker.worker.doctor.check import Finding, note, ok, warning
from stoker.worker.doctor.system import System
from stoker.worker.terminal import counted


def check(system: System) -> Iterator[Finding]:
    settings = system.settings
    share = system.usage["usage_percent"] / 100
    above = share > settings.high_watermark
    every = settings.beat.evict_every
    if every is None:
        yield warning(
            "nobody evicts by the clock",
            "STOKER_BEAT__EVICT_EVERY is none",
            "set STOKER_BEAT__EVICT_EVERY=30, or call CacheMonitor.handle_memory_pressure() yourself",
        )
    else:
        marks = f"from {settings.high_watermark:.0%} down to {settings.low_watermark:.0%} of maxmemory"
        yield ok(f"beat asks every {every:g} s for an eviction, {marks}; {share:.0%} are used")
    yield from _evicted_by_the_server(system, above)
    if above:
        yield from _last_eviction(system)


def _evicted_by_the_server(system: System, above: bool) -> Iterator[Finding]:
    evicted = int(system.usage["evictions"])
    if not evicted:
        return
    told = f"the server evicted {counted(evicted, 'key')} by itself since its start ({system.cache_server.policy})"
    cause = "entries came in faster than stoker.evict made room; the server chooses less well what to drop"
    remedy = "a lower STOKER_BEAT__EVICT_EVERY or STOKER_HIGH_WATERMARK, or more maxmemory"
    yield warning(told, cause, remedy) if above else note(told, cause, remedy)


def _last_eviction(system: System) -> Iterator[Finding]:
    job = system.newest_job("evict")
    if job is None:
        yield warning(
            "memory is above the high watermark, and no eviction ran lately",
            "beat does not run, or no worker serves the queue maintenance",
            "stoker beat; stoker worker -q maintenance",
        )
        return
    report = job.report
    dropped = sum(int(report.get(name) or 0) for name in ("dead", "stale", "over_quota", "least_worth"))
    yield note(
        f"the last eviction, {system.now - job.created_at:.0f} s ago, is {job.state} and dropped "
        + counted(dropped, "entry"),
        str(job.error or report.get("reason") or "it is not over"),
        f"stoker jobs {job.id}",
    )
