"""Deleting what a prefix was given to: a sweep beside a loop of SCAN and UNLINK, and what others feel of it.

What others feel are gets of another process, an open loop: each has its time, and how late its
answer is counts from then, so that what waits behind a slow one is slow too. Nothing is pinned: the server, who deletes
and who reads are three processes.
"""

import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection

from benchmarks.harness import Contender, Settings, Table, interleaved, ratios, run
from stoker.cache import Cache, CacheConfig
from stoker.worker.embedded import embedded_server

SWEPT, KEPT = 100_000, 900_000
GETS_PER_S = 500
IDLE_S = 2.0
HAND, SWEEP = "SCAN and UNLINK, 1,000 a call", "stoker, sweep"
_GIB = 2**30
_PAGES = 1000
_READY_S = 30.0

Times = list[float]
"""Seconds."""
Ways = dict[str, Callable[[], None]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    return run("sweeping", CONTENDERS, measure, arguments)


def measure(settings: Settings) -> Iterator[Table]:
    """How long it takes, at most 5 rounds of it; and gets of another process meanwhile, at most 8."""
    swept, kept = (200, 1000) if settings.quick else (SWEPT, KEPT)
    with embedded_server("cache", cache_bytes=2 * _GIB) as server:
        config = CacheConfig(
            backend="redis", redis_url=server.url, namespace="sweep", max_load=0.1, lease=0.1
        )
        cache = Cache(config)
        fill(cache, "kept:", kept)
        cache.sweep()  # of a new cache: from now on it has bans to go by
        ways: Ways = {one.name: partial(one.open, cache, swept) for one in settings.contenders}
        yield _times(settings, cache, swept, kept, ways)
        with _another(server.url) as reader:
            yield _felt(settings, cache, swept, ways, reader)


def _times(settings: Settings, cache: Cache, swept: int, kept: int, ways: Ways) -> Table:
    def timed(way: Callable[[], None]) -> float:
        fill(cache, "swept:", swept)
        began = time.perf_counter()
        way()
        return time.perf_counter() - began

    few = replace(settings, rounds=min(settings.rounds, 5))
    samples = interleaved({name: partial(timed, way) for name, way in ways.items()}, few)
    slower = {name: 1 / ratio for name, ratio in ratios(samples, HAND).items()}
    rows: list[list[str | float]] = [
        [name, statistics.median(figures), slower.get(name, "")] for name, figures in samples.items()
    ]
    title = f"Deleting {swept:,} of {swept + kept:,} keys"
    return Table(title, ("how", "seconds", "times SCAN and UNLINK"), rows)


def _by_hand(cache: Cache, swept: int) -> None:
    client = cache._client
    gone, cursor = 0, 0
    while True:
        cursor, names = client.scan(cursor, match="{sweep:0}:e::swept:*", count=1000)
        gone += client.unlink(*names) if names else 0
        if not cursor:
            break
    assert gone == swept, gone


def _by_sweep(cache: Cache, swept: int) -> None:
    cache.invalidate_pattern("swept:*")
    report = cache.sweep()
    assert report.deleted == swept, report


CONTENDERS = [Contender(HAND, _by_hand, ("redis", "hiredis")), Contender(SWEEP, _by_sweep, ("stoker",))]


def _felt(settings: Settings, cache: Cache, swept: int, ways: Ways, reader: Connection) -> Table:
    found: dict[str, Times] = {"nothing": [], **{name: [] for name in ways}}
    idle = partial(time.sleep, 0.1 if settings.quick else IDLE_S)
    for _ in range(min(settings.rounds, 8)):
        turns: Ways = {"nothing": idle, **ways}
        for name, way in turns.items():
            fill(cache, "swept:", 0 if name == "nothing" else swept)
            reader.send(True)
            way()
            reader.send(True)
            found[name] += reader.recv()
    usual = _percentile(found["nothing"], 0.99)
    rows: list[list[str | float]] = [
        [
            name,
            len(times),
            statistics.median(times) * 1e6,
            _percentile(times, 0.99) * 1e6,
            _percentile(times, 0.99) / usual,
        ]
        for name, times in found.items()
    ]
    columns = ("meanwhile", "gets", "half within, µs", "99 of 100 within, µs", "times as with nothing")
    return Table(f"A get of another process, {GETS_PER_S} a second", columns, rows)


def fill(cache: Cache, prefix: str, keys: int) -> None:
    """Store so many keys that begin so."""
    for first in range(0, keys, 1000):
        cache.set_many(
            {f"{prefix}{number}": number for number in range(first, min(keys, first + 1000))}, ttl=600
        )


@contextmanager
def _another(url: str) -> Iterator[Connection]:
    """A process that reads from one message to the next, and then answers how late each get was."""
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=_read, args=(url, there), daemon=True)
    process.start()
    try:
        if not here.poll(_READY_S):
            raise RuntimeError("the process that is to read did not begin")
        here.recv()
        yield here
    finally:
        process.terminate()
        process.join()


def _read(url: str, told: Connection) -> None:
    with Cache(CacheConfig(backend="redis", redis_url=url, namespace="app")) as cache:
        cache.set_many({f"page:{number}": number for number in range(_PAGES)}, ttl=3600)
        for number in range(_PAGES):
            cache.get(f"page:{number}")
        gc.collect()
        gc.freeze()
        told.send(True)
        while told.recv():
            times: Times = []
            began = time.perf_counter()
            while not told.poll():
                due = began + len(times) / GETS_PER_S
                if (left := due - time.perf_counter()) > 0:
                    time.sleep(left)
                assert cache.get(f"page:{len(times) * 7919 % _PAGES}") is not None
                times.append(time.perf_counter() - due)
            told.recv()
            told.send(times)


def _percentile(times: Sequence[float], share: float) -> float:
    return sorted(times)[min(int(share * len(times)), len(times) - 1)]


if __name__ == "__main__":
    sys.exit(main())
