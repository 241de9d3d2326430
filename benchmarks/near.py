"""A hit in the near cache, beside redis-py's client-side cache and beside reads that ask the server.

    python -m benchmarks.near [--quick]

Each reads 100 keys in turn, of 100 bytes of text each, or of a dict that is decoded anew for every caller. Nothing is
changed meanwhile. What invalidations cost a near cache depends on how often they come: after each one is noticed, the
next read asks the server.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, TypeAlias

import redis
from redis.cache import CacheConfig as ClientSideCache
from redis.connection import CacheProxyConnection

from benchmarks.harness import Contender, Settings, Table, interleaved, pinned, ratios, run
from stoker.cache import AsyncCache, Cache, CacheConfig
from stoker.worker.embedded import embedded_server

KEYS = [f"user:{number}" for number in range(100)]
TEXT = "x" * 100
DICT = {"id": 7, "name": "Ada Lovelace", "tags": ["first", "second"], "active": True, "score": 0.5}
REFERENCE = "redis-py client-side cache"
READS, QUICK_READS = 20_000, 200
SLOW = 20
"""So many fewer reads of those that take so much longer."""
COPIED_WITHIN_S = 10.0


class Peer(NamedTuple):
    """Reads a key; awaited, if it has a loop."""

    get: Callable[[str], Any]
    loop: asyncio.AbstractEventLoop | None = None
    slow: bool = False


Open: TypeAlias = Callable[[str, ExitStack], Peer]


def _stoker(value: Any, near_size: int) -> Open:
    def ready(url: str, stack: ExitStack) -> Peer:
        namespace = f"{type(value).__name__}-{near_size}"
        config = CacheConfig(backend="redis", redis_url=url, namespace=namespace, near_size=near_size)
        cache = stack.enter_context(Cache(config))
        cache.set_many(dict.fromkeys(KEYS, value))
        if near_size:
            _until_copied(cache)
        return Peer(cache.get, slow=not near_size)

    return ready


def _stoker_async(url: str, stack: ExitStack) -> Peer:
    loop = asyncio.new_event_loop()
    stack.callback(loop.close)
    config = CacheConfig(backend="redis", redis_url=url, namespace="async", near_size=1000)
    shared = stack.enter_context(Cache(config))
    shared.set_many(dict.fromkeys(KEYS, TEXT))
    _until_copied(shared)
    return Peer(AsyncCache(shared).get, loop)


def _until_copied(cache: Cache) -> None:
    deadline = time.monotonic() + COPIED_WITHIN_S
    while cache.stats().near_entries < len(KEYS):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{cache.stats()}")
        cache.get_many(KEYS)


def _client_side(url: str, stack: ExitStack) -> Peer:
    # It refuses every server that does not call itself Redis, though it needs nothing that Valkey lacks.
    connection: Any = CacheProxyConnection
    connection.DEFAULT_SERVER_NAME = "valkey"
    client = stack.enter_context(redis.Redis.from_url(url, protocol=3, cache_config=ClientSideCache()))
    return Peer(_filled(client).get, slow=True)


def _plain(url: str, stack: ExitStack) -> Peer:
    return Peer(_filled(stack.enter_context(redis.Redis.from_url(url))).get, slow=True)


def _filled(client: Any) -> Any:
    client.mset(dict.fromkeys(KEYS, TEXT))
    return client


CONTENDERS = (
    Contender("stoker near, text", _stoker(TEXT, 1000), ("stoker",)),
    Contender("stoker near, dict", _stoker(DICT, 1000), ("stoker",)),
    Contender("stoker near, text, async", _stoker_async, ("stoker",)),
    Contender("stoker without near, text", _stoker(TEXT, 0), ("stoker",)),
    Contender(REFERENCE, _client_side, ("redis", "hiredis")),
    Contender("redis-py GET", _plain, ("redis", "hiredis")),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    return run("near", CONTENDERS, measure, arguments)


def measure(settings: Settings) -> Iterator[Table]:
    """One table: microseconds of a hit."""
    reads = QUICK_READS if settings.quick else READS
    with embedded_server("cache") as server, ExitStack() as stack, pinned(1):
        peers = {one.name: one.open(server.url, stack) for one in settings.contenders}
        samples = interleaved({name: _reading(peer, reads) for name, peer in peers.items()}, settings)
    better = ratios(samples, REFERENCE)
    rows: list[list[str | float]] = [
        [name, statistics.median(figures), better.get(name, "")] for name, figures in samples.items()
    ]
    column = f"x {REFERENCE}"
    yield Table("A hit in the near cache", ("cache", "us", column), rows, plot=column)


def _reading(peer: Peer, reads: int) -> Callable[[], float]:
    keys = (KEYS * (reads // len(KEYS)))[: max(len(KEYS), reads // (SLOW if peer.slow else 1))]
    get = peer.get

    def called() -> float:
        for key in KEYS:  # who had the turn before may have let copies grow old
            get(key)
        began = time.perf_counter_ns()
        for key in keys:
            get(key)
        return (time.perf_counter_ns() - began) / len(keys) / 1000

    async def awaited(get: Callable[[str], Awaitable[Any]]) -> float:
        for key in KEYS:
            await get(key)
        began = time.perf_counter_ns()
        for key in keys:
            await get(key)
        return (time.perf_counter_ns() - began) / len(keys) / 1000

    loop = peer.loop
    return called if loop is None else lambda: loop.run_until_complete(awaited(get))


if __name__ == "__main__":
    sys.exit(main())
