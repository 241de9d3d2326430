"""Loaders of tasks: what they may raise, where they run, and whose places they take."""

import asyncio
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from stoker.cache import AsyncCache, Cache, CacheConfig, LoaderError
from tests.waiting import until


class AtOnce:
    """Counts how many are inside."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.now -= 1


def test_a_loader_that_raises_stop_iteration_fails_its_caller_at_once() -> None:
    def first_of_none() -> int:
        return next(iter(()))

    async def first_of_none_awaited() -> int:
        return next(iter(()))

    async def main() -> None:
        async with AsyncCache() as cache, asyncio.timeout(10):
            for load in (first_of_none, first_of_none_awaited):
                with pytest.raises(RuntimeError, match="StopIteration"):
                    await cache.get_or_load("k", load)
            assert await cache.get_or_load("k", lambda: 1) == 1

    asyncio.run(main())
    with pytest.raises(RuntimeError, match="StopIteration"):
        Cache().get_or_load("k", first_of_none)


def test_a_cancelled_loader_keeps_its_place_for_as_long_as_its_thread_runs() -> None:
    inside, go_on = AtOnce(), threading.Event()

    def slow() -> None:
        with inside:
            go_on.wait(10)

    async def main() -> None:
        async with AsyncCache(CacheConfig(max_loads=2)) as cache:
            for n in range(6):
                task = asyncio.create_task(cache.get_or_load(f"k{n}", slow))
                await until(lambda: cache.stats().misses > n and inside.now == min(n + 1, 2))  # noqa: B023
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            assert inside.most == 2
            go_on.set()
            async with asyncio.timeout(10):
                assert await asyncio.gather(*(cache.get_or_load(f"n{n}", int) for n in range(4))) == [0] * 4

    asyncio.run(main())


def test_a_task_that_outlives_its_loader_loads_in_places_of_its_own() -> None:
    inside = AtOnce()
    later: list[asyncio.Task[Any]] = []

    async def one() -> None:
        with inside:
            await asyncio.sleep(0.01)

    async def main() -> None:
        async with AsyncCache(CacheConfig(max_loads=1)) as cache:
            loaded = asyncio.Event()

            async def outlive() -> None:
                await loaded.wait()
                await asyncio.gather(*(cache.get_or_load(f"k{n}", one) for n in range(5)))

            async def load() -> None:
                later.append(asyncio.create_task(outlive()))

            await cache.get_or_load("k", load)
            loaded.set()
            await later[0]
            assert inside.most == 1

    asyncio.run(main())


def test_slow_loaders_run_at_once_and_leave_the_loops_executor_to_others() -> None:
    """Host names are looked up there: without it no connection is opened, and the server seems to be gone."""
    go_on = threading.Event()
    everybody = threading.Barrier(41)

    def slow() -> bool:
        everybody.wait(10)
        return go_on.wait(10)

    async def main() -> None:
        async with AsyncCache() as cache, asyncio.timeout(20):
            loads = [asyncio.create_task(cache.get_or_load(f"k{n}", slow)) for n in range(40)]
            await asyncio.to_thread(everybody.wait, 10)
            assert await asyncio.get_running_loop().getaddrinfo("localhost", 6379)
            go_on.set()
            assert await asyncio.gather(*loads) == [True] * 40

    asyncio.run(main())


def in_a_thread(call: Callable[[], Any]) -> Any:
    """The result of a call that might never return."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # handed over, whatever it is
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(10)
    return results[0] if results else "it hangs"


def test_a_coroutine_that_loads_for_a_thread_is_told_not_to_wait_for_threads() -> None:
    cache = Cache()

    async def inner() -> int:
        return 1

    async def outer() -> int:
        return int(cache.get_or_load("inner", inner)) + 1

    async def right() -> int:
        return int(await AsyncCache(cache).get_or_load("inner", inner)) + 1

    refused = in_a_thread(lambda: cache.get_or_load("outer", outer))
    assert isinstance(refused, LoaderError)
    assert "let it await AsyncCache(cache)" in str(refused)
    assert in_a_thread(lambda: cache.get_or_load("outer", right)) == 2


def test_a_coroutine_that_exits_ends_its_own_caller_only() -> None:
    cache = Cache()

    async def leave() -> None:
        sys.exit(3)

    async def load() -> int:
        return 1

    assert isinstance(in_a_thread(lambda: cache.get_or_load("k", leave)), SystemExit)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda n: cache.get_or_load(f"k{n}", load), range(2), timeout=10)) == [1, 1]
