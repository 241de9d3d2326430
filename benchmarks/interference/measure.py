"""The times: how fast a warm goes, how long an invalidation takes to be effective, and what a read takes.

Reads are an open loop: each has its time, and how late its answer is counts from then, so that what waits behind a slow
one is slow too.
"""

import gc
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

from benchmarks.interference.origin import VALUE
from stoker.cache import Cache, CacheMonitor
from stoker.config import Settings, open_cache
from stoker.tasks import JobHandle, send

READS_PER_S = 500
PAGES = 1000
"""Keys that the app reads, all of them there."""
WARM_UP = 200
POLL_S = 0.002
PAUSE_S = 0.01
"""Between two invalidations."""
MOST_S = 30.0
FILLERS = 2000
TENANT = "acme"

Times = list[float]
"""Seconds."""


class NotEffective(RuntimeError):
    """An invalidation that was asked for did not take effect."""


def warm_rate(plan: str, keys: int) -> float:
    """Keys a second, from the first batch that is told to the end."""
    job = send.warm_plan(plan)
    while not (first := job.status()).done:
        time.sleep(0.002)
    began = time.monotonic()
    report = job.wait(timeout=600).report
    if report["written"] != keys:
        raise RuntimeError(f"the warm wrote {report['written']:,} of {keys:,} keys: {report}")
    return (keys - first.done) / (time.monotonic() - began)


def invalidations(cache: Cache, count: int) -> Times:
    """Ask for so many, one after the other, of each kind in turn; how long until a read misses."""
    asked: list[Callable[[int], JobHandle]] = [
        lambda n: send.invalidate(keys=[f"probe:{n}"], tenant_id=TENANT),
        lambda n: send.invalidate_pattern(f"probe:{n}*", tenant_id=TENANT),
        lambda n: send.invalidate_tags([f"probe {n}"], tenant_id=TENANT),
        lambda _: send.invalidate_tenant(TENANT),
    ]
    times = []
    for number, ask in zip(range(count), itertools.cycle(asked), strict=False):
        key = f"probe:{number}"
        cache.set(key, VALUE, tenant_id=TENANT, ttl=600, tags=[f"probe {number}"])
        began = time.perf_counter()
        ask(number)
        while cache.get(key, tenant_id=TENANT) is not None:
            if time.perf_counter() - began > MOST_S:
                raise NotEffective(f"{key} is still served {MOST_S:g} s after its invalidation was asked for")
            time.sleep(POLL_S)
        times.append(time.perf_counter() - began)
        time.sleep(PAUSE_S)
    return times


def evictions(cache: Cache, over: Future[Times]) -> int:
    """Store some, and evict as much, until it is over. Returns how many entries went."""
    dropped = 0
    monitor = CacheMonitor(cache)
    while not over.done():
        before = monitor.get_node().used_bytes
        for first in range(0, FILLERS, 50):  # what an app stores at once
            cache.set_many({f"filler:{dropped + first + n}": VALUE for n in range(50)}, ttl=600)
        dropped += cache.evict(target_bytes=before).dropped
    return dropped


class App:
    """An app's process that reads, apart from this one so that it has an interpreter to itself."""

    def __init__(self, settings: Settings, core: int | None) -> None:
        self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        self._given = settings.model_dump(include={"cache_url", "namespace"}), core

    def read_for(self, seconds: float) -> Future[Times]:
        """Read as often as an app does; how late each answer was."""
        return self._pool.submit(_read, *self._given, seconds)

    def close(self) -> None:
        self._pool.shutdown()


@contextmanager
def app(settings: Settings, core: int | None) -> Iterator[App]:
    """An app for as long as the block runs."""
    opened = App(settings, core)
    try:
        yield opened
    finally:
        opened.close()


def _read(given: dict[str, Any], core: int | None, seconds: float) -> Times:
    if core is not None:
        os.sched_setaffinity(0, {core})
    with open_cache(Settings(**given)) as cache:
        cache.set_many({f"page:{n}": VALUE for n in range(PAGES)}, ttl=3600)
        for number in range(WARM_UP):
            cache.get(f"page:{number}")
        gc.collect()
        gc.freeze()
        began = time.perf_counter() + 0.01
        return [_late(cache, number, began) for number in range(round(seconds * READS_PER_S))]


def _late(cache: Cache, number: int, began: float) -> float:
    due = began + number / READS_PER_S
    if (left := due - time.perf_counter()) > 0:
        time.sleep(left)
    if cache.get(f"page:{number * 7919 % PAGES}") is None:
        raise RuntimeError("an entry that nobody invalidated was not served")
    return time.perf_counter() - due


def percentile(times: Sequence[float], share: float) -> float:
    """The least time that so many of them do not exceed."""
    return sorted(times)[min(int(share * len(times)), len(times) - 1)]
