"""One invalidation all the way: an entry of the doctor's own, banned by a real worker through the queue, is gone."""

from collections.abc import Iterator
from contextlib import suppress
from secrets import token_hex
from time import perf_counter

from stoker.cache.backends import Write
from stoker.tasks import JobError, JobHandle, NotSent, StateUnavailable, send
from stoker.worker.doctor.check import Finding, error, ok, warning
from stoker.worker.doctor.system import TENANT, System
from stoker.worker.terminal import counted

WAIT_S = 4.0
"""For the worker."""
SLOW_S = 1.0
_CANARY_TTL_MS = 60_000
_ELSEWHERE = error(
    "a worker reported an invalidation as done, but it had no effect on the cache at STOKER_CACHE_URL",
    "the workers use another cache server than this process",
    "give apps and workers the same STOKER_CACHE_URL; `stoker config` prints it",
)


def check(system: System) -> Iterator[Finding]:
    if not system.nodes.serving[system.queue("invalidate")]:
        yield error(
            "nothing was tried: no worker serves the queue of invalidations",
            "what is invalidated through `send` stays as it is until one does",
            "stoker worker -q invalidate",
        )
        return
    _ = system.jobs
    key = f"canary:{token_hex(8)}"
    if system.map is None:  # let a worker open the namespace, with the settings that workers have
        trouble = _invalidate(system, key)
        if isinstance(trouble, Finding) or system.map is None:
            yield trouble if isinstance(trouble, Finding) else _ELSEWHERE
            return
    backend = system.backend
    try:
        yield from _with_canary(system, key)
    finally:
        system.run(backend.delete(TENANT, key))


def _with_canary(system: System, key: str) -> Iterator[Finding]:
    backend = system.backend
    canary = Write("canary", _CANARY_TTL_MS, 0, (), 0)
    if not system.run(backend.store(TENANT, [(key, canary)]))[0]:
        yield error(
            "the server has no memory left to store one small entry",
            "maxmemory is reached, and nothing is evicted",
            "more maxmemory, maxmemory-policy volatile-lfu, or shorter TTLs",
        )
        return
    if system.run(backend.read(TENANT, key)) is None:
        yield error(
            "an entry that was stored a moment ago is not there",
            "the namespace began cold in between, or two servers answer at one address",
            f"look at who answers at {system.cache_server.address}; `begins cold` in the workers' log has the reason",
        )
        return
    took = _invalidate(system, key)
    if isinstance(took, Finding):
        yield took
    elif system.run(backend.read(TENANT, key)) is not None:
        yield _ELSEWHERE
    elif took > SLOW_S:
        yield warning(
            f"an entry was gone {took:.1f} s after `send.invalidate_pattern`",
            "the workers of the queue invalidate are busy, or too few",
            "stoker worker -q invalidate --name invalidate-2; or invalidate at once: cache.invalidate_pattern()",
        )
    else:
        yield ok(f"an entry was gone {took * 1000:.0f} ms after `send.invalidate_pattern`")


def _invalidate(system: System, key: str) -> float | Finding:
    """Seconds that it took a worker, or what went wrong."""
    began = perf_counter()
    try:
        job = send.invalidate_pattern(f"{key}*", TENANT)
    except NotSent as refused:
        return error(
            "an invalidation could not be sent",
            refused.reason,
            "see the check of the broker; until it is put right, call cache.invalidate_pattern() instead",
        )
    try:
        job.wait(WAIT_S)
    except TimeoutError:
        return _not_done(system, job)
    except JobError as failure:
        return error(
            "the worker could not carry out an invalidation",
            failure.reason,
            "give workers and apps the same STOKER_CACHE_URL and cache settings; `stoker config` prints them",
        )
    return perf_counter() - began


def _not_done(system: System, job: JobHandle) -> Finding:
    status = job.status()
    with suppress(StateUnavailable):
        job.abort()  # whoever meets its message lets it be
    if status.error:
        return error(
            f"the worker could not carry out an invalidation in {WAIT_S:g} s; it tries again",
            status.error,
            "see that the workers reach the cache: their STOKER_CACHE_URL, and the check of its server",
        )
    waiting = int(system.broker.client.llen(system.queue("invalidate")))
    return error(
        f"an invalidation was not carried out within {WAIT_S:g} s; {counted(waiting, 'message')} wait",
        "the workers of the queue invalidate are busy or hang",
        "`stoker jobs` shows what runs; stoker worker -q invalidate --name invalidate-2",
    )
