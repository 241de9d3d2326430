"""Caches in memory: time of a get and a set, four threads at once, hit ratios, and bytes an entry.

The contenders and how they are used are in `memory_peers`.
"""

import asyncio
import itertools
import random
import statistics
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from benchmarks import memory_peers
from benchmarks.harness import Contender, Samples, Settings, Table, interleaved, pinned, ratios, run
from benchmarks.memory_peers import LOCKED, LRU, REFERENCE, AwaitedPeer, Peer
from benchmarks.traces import Trace, made, recorded, zipf_keys

HOT, CAPACITY = 5_000, 10_000
THREADS = 4
DRAWN = ("get, a hit", "set, an update")
AnyPeer = Peer | AwaitedPeer


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    return run("memory", memory_peers.CONTENDERS, measure, arguments)


def measure(settings: Settings) -> Iterator[Table]:
    """All tables, one after the other."""
    with pinned(1):
        yield from speeds(settings)
    with pinned(2):
        yield threads(settings)
    with pinned(1):
        yield hit_ratios(settings)
        yield entry_bytes(settings)


def speeds(settings: Settings) -> Iterator[Table]:
    """Nanoseconds of CPU time of one call, in each of four situations."""
    hot = 50 if settings.quick else HOT
    keys = [f"user:{number}" for number in range(hot)]
    absent = [f"absent:{number}" for number in range(hot)]
    fresh = (f"new:{number}" for number in itertools.count())
    roomy, full = 2 * hot, hot
    found: dict[str, Samples] = {}
    with _a_loop() as loop:

        def timed(what: Callable[[AnyPeer], Callable[[], float]], capacity: int) -> Samples:
            ready = {one.name: _filled(one, loop, keys, capacity) for one in settings.contenders}
            return interleaved({name: what(peer) for name, peer in ready.items()}, settings)

        found["get, a hit"] = timed(lambda peer: _getting(peer, loop, keys), roomy)
        found["get, a miss"] = timed(lambda peer: _getting(peer, loop, absent), roomy)
        found["set, an update"] = timed(lambda peer: _setting(peer, loop, lambda: keys), roomy)
        found["set, new when full"] = timed(
            lambda peer: _setting(peer, loop, lambda: list(itertools.islice(fresh, hot // 10))), full
        )
    for title, samples in found.items():
        better = ratios(samples, REFERENCE)
        rows: list[list[str | float]] = [
            [name, statistics.median(figures), better.get(name, "")] for name, figures in samples.items()
        ]
        plot = "x TTLCache" if title in DRAWN else ""
        yield Table(title, ("cache", "ns", "x TTLCache"), rows, plot=plot)


@contextmanager
def _a_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop; what others leave running on it is cancelled at the end."""
    loop = asyncio.new_event_loop()
    try:
        yield loop
    finally:
        loop.run_until_complete(_cancel(asyncio.all_tasks(loop)))
        loop.close()


async def _cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _filled(contender: Contender, loop: asyncio.AbstractEventLoop, keys: list[str], capacity: int) -> AnyPeer:
    peer: AnyPeer = contender.open(capacity)
    _setting(peer, loop, lambda: keys)()
    return peer


def _getting(peer: AnyPeer, loop: asyncio.AbstractEventLoop, keys: list[str]) -> Callable[[], float]:
    get = peer.get

    def called() -> float:
        began = time.thread_time_ns()
        for key in keys:
            get(key)
        return (time.thread_time_ns() - began) / len(keys)

    async def awaited() -> float:
        began = time.thread_time_ns()
        for key in keys:
            await get(key)
        return (time.thread_time_ns() - began) / len(keys)

    return called if isinstance(peer, Peer) else lambda: loop.run_until_complete(awaited())


def _setting(
    peer: AnyPeer, loop: asyncio.AbstractEventLoop, some: Callable[[], list[str]]
) -> Callable[[], float]:
    put = peer.set

    def called() -> float:
        keys = some()
        began = time.thread_time_ns()
        for key in keys:
            put(key, 1)
        return (time.thread_time_ns() - began) / len(keys)

    async def awaited() -> float:
        keys = some()
        began = time.thread_time_ns()
        for key in keys:
            await put(key, 1)
        return (time.thread_time_ns() - began) / len(keys)

    return called if isinstance(peer, Peer) else lambda: loop.run_until_complete(awaited())


def threads(settings: Settings) -> Table:
    """Four threads on one cache: nine reads to one write, by a Zipf law."""
    rng = random.Random(settings.seed)
    each = 500 if settings.quick else 50_000
    names = [f"user:{number}" for number in range(2 * CAPACITY)]
    loads = [zipf_keys(names, each, rng) for _ in range(THREADS)]
    errors: dict[str, int] = {}
    runs = {}
    for contender in settings.contenders:
        peer = contender.open(CAPACITY)
        if isinstance(peer, Peer):
            errors[contender.name] = 0
            runs[contender.name] = partial(_threaded, contender.name, peer, loads, errors)
    samples = interleaved(runs, settings)
    better = ratios(samples, LOCKED, speed=True)
    rows: list[list[str | float]] = [
        [name, statistics.median(figures) / 1e6, better.get(name, ""), float(errors[name])]
        for name, figures in samples.items()
    ]
    columns = ("cache", "million operations/s", "x TTLCache + RLock", "errors")
    return Table("Four threads", columns, rows, plot="x TTLCache + RLock")


def _threaded(name: str, peer: Peer, loads: list[list[str]], errors: dict[str, int]) -> float:
    together = threading.Barrier(len(loads) + 1)

    def work(keys: list[str]) -> None:
        get, put = peer.get, peer.set
        together.wait()
        for turn, key in enumerate(keys):
            try:
                if turn % 10:
                    get(key)
                else:
                    put(key, turn)
            except Exception:  # of what is not made for threads; counted
                errors[name] += 1

    crew = [threading.Thread(target=work, args=(keys,)) for keys in loads]
    for thread in crew:
        thread.start()
    together.wait()
    began = time.perf_counter()
    for thread in crew:
        thread.join()
    return sum(map(len, loads)) / (time.perf_counter() - began)


def hit_ratios(settings: Settings) -> Table:
    """The share of reads that hit, each miss being stored; and what that is more than every LRU's."""
    small = made(settings.seed, capacity=100, requests=2000)
    traces = list(small if settings.quick else itertools.chain(made(settings.seed), recorded()))
    playing = [one for one in _able(settings) if one.open(10).own_order]
    found = {one.name: [_played(one, trace) for trace in traces] for one in playing}
    least = found.get(LRU, [0.0] * len(traces))
    rows: list[list[str | float]] = [
        [name, *(f"{mine:.4f} ({mine - lru:+.3f})" for mine, lru in zip(ratio, least, strict=True))]
        for name, ratio in found.items()
    ]
    columns = ("cache", *(f"{trace.name}, {trace.capacity:,}" for trace in traces))
    return Table(
        "Hit ratios", columns, rows, note="In brackets the difference to LRU; after the name the capacity."
    )


def _able(settings: Settings) -> list[Contender]:
    """Those that are called, and can be full for long."""
    opened = [(one, one.open(10)) for one in settings.contenders]
    return [one for one, peer in opened if isinstance(peer, Peer) and peer.quick_when_full]


def _played(contender: Contender, trace: Trace) -> float:
    peer = contender.open(trace.capacity)
    hits = 0
    for key in trace.keys:
        if peer.get(key) is None:
            peer.set(key, 1)
        else:
            hits += 1
    return hits / len(trace.keys)


def entry_bytes(settings: Settings) -> Table:
    """What Python allocates for an entry besides its key and value: full, and after as many again were added."""
    entries = 1_000 if settings.quick else 100_000
    rows: list[list[str | float]] = []
    for contender in _able(settings):
        keys = [f"user:{number}" for number in range(3 * entries)]
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        peer = contender.open(entries)
        sizes = []
        for some in (keys[:entries], keys[entries:]):
            for key in some:
                peer.set(key, 1)
            sizes.append((tracemalloc.get_traced_memory()[0] - before) / entries)
        tracemalloc.stop()
        rows.append([contender.name, *sizes])
    note = "Libraries in Rust allocate where Python does not see it."
    return Table("Bytes an entry", ("cache", "filled", "after evictions"), rows, note=note)


if __name__ == "__main__":
    sys.exit(main())
