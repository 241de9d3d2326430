"""Caches on Redis: a get, a set and a get of 100 keys, called and awaited; and invalidation.

The contenders and how they are used are in `redis_peers`. The server is an embedded Valkey.
"""

import asyncio
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import redis

from benchmarks import redis_peers
from benchmarks.harness import Contender, Samples, Settings, Table, interleaved, pinned, ratios, run
from benchmarks.redis_peers import REFERENCE, REFERENCE_ASYNC, STOKER, AwaitedPeer, Peer, chosen
from benchmarks.sweeping import fill
from stoker.cache import Cache, CacheConfig
from stoker.worker.embedded import embedded_server

MANY = 100
TASKS = 50
GIB = 2**30
Times = dict[str, Samples]
Wait = Callable[[Coroutine[Any, Any, Any]], Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    return run("redis_speed", redis_peers.CONTENDERS, measure, arguments)


def measure(settings: Settings) -> Iterator[Table]:
    """All tables, one after the other."""
    with pinned(1), embedded_server("cache") as server:  # which is on the same core
        yield from called(settings, server.url)
    with apart() as url:
        yield from awaited(settings, url, 1)
        yield from awaited(settings, url, TASKS)
    if any(one.name == STOKER for one in settings.contenders):
        with pinned(1), embedded_server("cache", cache_bytes=GIB) as server:
            yield invalidation(settings, server.url)


@contextmanager
def apart() -> Iterator[str]:
    """A server on one core, and this process on another, where there are two."""
    with embedded_server("cache") as server:
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        if len(cores) > 1:
            os.sched_setaffinity(server.child.pid, cores[:1])
        with pinned(1):
            yield server.url


# -- a get, a set, a hundred ------------------------------------------------------------------------------------


def called(settings: Settings, url: str) -> Iterator[Table]:
    """Microseconds of a call, client and server on one core: every instruction of the client shows."""
    times = 20 if settings.quick else 1000
    peers: dict[str, Peer] = {one.name: one.open(url) for one in chosen(settings.contenders, awaited=False)}
    for name, peer in peers.items():
        for key in _keys(name):
            peer.set(key)
    found: Times = {}
    for what, count in (("get", times), ("set", times), ("get of 100", max(1, times // 10))):
        runs = {name: _calls(_call_of(peer, what, _keys(name)), count) for name, peer in peers.items()}
        found[what] = interleaved(runs, settings)
    yield from _tables("Called", found, REFERENCE)


def _keys(name: str) -> list[str]:
    """Of each contender its own: they store in different forms."""
    return [f"{name.replace(' ', '-')}:{number}" for number in range(MANY)]


def _call_of(peer: Peer | AwaitedPeer, what: str, keys: list[str]) -> Callable[[], Any]:
    if what == "get of 100":
        return partial(peer.get_many, keys)
    return partial(peer.get if what == "get" else peer.set, keys[7])


def _calls(call: Callable[[], Any], count: int) -> Callable[[], float]:
    def once() -> float:
        began = time.perf_counter()
        for _ in range(count):
            call()
        return (time.perf_counter() - began) / count * 1e6

    return once


def awaited(settings: Settings, url: str, tasks: int) -> Iterator[Table]:
    """The same of so many tasks at once, the server on a core of its own."""
    contenders = chosen(settings.contenders, awaited=True)
    loop = asyncio.new_event_loop()
    try:
        found = _awaited(settings, contenders, url, tasks, loop.run_until_complete)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
    yield from _tables(f"Awaited, {tasks} task{'s' if tasks > 1 else ''}", found, REFERENCE_ASYNC)


def _awaited(
    settings: Settings,
    contenders: Sequence[Contender],
    url: str,
    tasks: int,
    wait: Wait,
) -> Times:
    times = 2 if settings.quick else max(20, 1000 // tasks)
    peers: dict[str, AwaitedPeer] = {one.name: wait(one.open(url)) for one in contenders}
    for name, peer in peers.items():
        wait(_each(peer.set, _keys(name)))
    found: Times = {}
    for what, count in (("get", times), ("set", times), ("get of 100", max(1, times // 20))):
        runs = {
            name: partial(_waited, wait, _call_of(peer, what, _keys(name)), tasks, count)
            for name, peer in peers.items()
        }
        found[what] = interleaved(runs, settings)
    for peer in peers.values():
        wait(_each(lambda close: close(), [peer.close]))
    return found


def _waited(wait: Wait, call: Callable[[], Awaitable[Any]], tasks: int, count: int) -> float:
    return float(wait(_in_tasks(call, tasks, count)))


async def _each(call: Callable[[Any], Awaitable[Any]], items: Sequence[Any]) -> None:
    for item in items:
        await call(item)


async def _in_tasks(call: Callable[[], Awaitable[Any]], tasks: int, count: int) -> float:
    async def work() -> None:
        for _ in range(count):
            await call()

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(tasks)))
    return (time.perf_counter() - began) / (tasks * count) * 1e6


def _tables(title: str, found: Times, reference: str) -> Iterator[Table]:
    for what, samples in found.items():
        better = ratios(samples, reference)
        rows: list[list[str | float]] = [
            [name, statistics.median(figures), better.get(name, "")] for name, figures in samples.items()
        ]
        against = f"x {reference}"
        yield Table(f"{title}, {what}", ("cache", "µs", against), rows, plot=against if what == "get" else "")


# -- what was invalidated ----------------------------------------------------------------------


def invalidation(settings: Settings, url: str) -> Table:
    """An invalidation by pattern that nearly nothing, 10,000 keys, 100,000 keys belong to, and a get for scale."""
    few, many = (100, 1000) if settings.quick else (10_000, 100_000)
    times = 5 if settings.quick else 200
    client: Any = redis.Redis.from_url(url)
    client.set("user:7", redis_peers.BYTES)
    runs = {f"{REFERENCE}, get": _calls(lambda: client.get("user:7"), times)}
    for number, keys in enumerate((few, many)):
        cache = Cache(CacheConfig(backend="redis", redis_url=url, namespace=f"with-{keys}"))
        fill(cache, "user:", keys)
        runs[f"stoker, {keys:,} keys"] = _calls(partial(cache.invalidate_pattern, f"u*r:?{number}*"), times)
    samples = interleaved(runs, settings)
    slower = {name: 1 / ratio for name, ratio in ratios(samples, f"{REFERENCE}, get").items()}
    rows: list[list[str | float]] = [
        [name, statistics.median(figures), slower[name]] for name, figures in samples.items()
    ]
    return Table("Invalidation by pattern", ("what", "µs", "times a get"), rows)


if __name__ == "__main__":
    sys.exit(main())
