"""What only tasks and event loops can do: be cancelled, be many, end; and sync callers beside them."""

import asyncio
import gc
import random
import threading
import time
import warnings
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import uvloop

from stoker.cache import AsyncCache, Cache, CacheConfig
from stoker.cache.loaders import Loader, LoadKey, Registry
from tests.cache.conftest import MakeCache
from tests.cache.proxy import SlowProxy
from tests.waiting import until

SEED = int(time.time())
Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine on a loop of its own. Whatever it leaves behind fails the test."""

    def run(main: Coroutine[Any, Any, Any]) -> Any:
        async def all_of_it() -> Any:
            result = await main
            if told := [task for task in asyncio.all_tasks() if task.cancelling()]:
                await asyncio.wait(told, timeout=10)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            return result

        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a connection that nobody closed
            factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
            with asyncio.Runner(loop_factory=factory) as runner:
                result = runner.run(all_of_it())
            gc.collect()
            return result

    return run


@pytest.fixture
def config(cache_server: str, namespace: str) -> CacheConfig:
    return CacheConfig(backend="redis", redis_url=cache_server, namespace=namespace, lease=0.5, max_load=5)


async def cancelled(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def test_a_cancelled_read_leaves_its_reply_to_nobody(
    run: Run, config: CacheConfig, cache_server: str
) -> None:
    async def main(proxy: SlowProxy) -> None:
        async with AsyncCache(
            CacheConfig(backend="redis", redis_url=proxy.url, namespace=config.namespace)
        ) as cache:
            for i in range(10):
                await cache.set(f"k{i}", i)
            for i in range(10):
                proxy.delay_s = 0.05
                proxy.holding.clear()
                late = asyncio.create_task(cache.get(f"k{i}"))
                assert await asyncio.to_thread(proxy.holding.wait, 10)
                await cancelled(late)
                proxy.delay_s = 0.0
                assert await cache.get(f"k{9 - i}") == 9 - i
            assert cache.stats().unavailable == 0

    with SlowProxy(cache_server) as proxy:
        run(main(proxy))


def test_whatever_is_cancelled_everybody_gets_his_own_answer(run: Run, config: CacheConfig) -> None:
    print(f"seed {SEED}")  # noqa: T201 - shown if it fails
    chance = random.Random(SEED)

    async def use(cache: AsyncCache, n: int) -> None:
        key = f"k{n % 7}"

        async def load() -> str:
            await asyncio.sleep(chance.random() * 0.003)
            return key

        for _ in range(20):
            kind = chance.random()
            if kind < 0.4:
                assert await cache.get_or_load(key, load) == key
            elif kind < 0.7:
                assert await cache.get(key) in (None, key)
            elif kind < 0.8:
                got = await cache.get_many([key, "other"])
                assert got in ({}, {key: key})
            elif kind < 0.9:
                await cache.set(key, key)
            else:
                await cache.delete(key)

    async def main() -> None:
        async with AsyncCache(config) as cache:
            tasks = [asyncio.create_task(use(cache, n)) for n in range(100)]
            while not all(task.done() for task in tasks):
                chance.choice(tasks).cancel()
                await asyncio.sleep(chance.random() * 0.01)
            errors = [task.exception() for task in tasks if not task.cancelled()]
            assert not any(errors), errors
            began = time.monotonic()
            for n in range(7):  # no lease is left for longer than it lasts
                assert await cache.get_or_load(f"k{n}", partial(str, f"k{n}")) == f"k{n}"
            assert time.monotonic() - began < 7 * 0.5 + 1

    run(main())


def test_a_cancelled_load_gives_its_lease_back_and_its_followers_go_on(run: Run, config: CacheConfig) -> None:
    async def main() -> None:
        long = {"lease": 60.0, "max_load": 60.0}
        async with AsyncCache(CacheConfig(**{**vars_of(config), **long})) as cache:
            loading = asyncio.Event()

            async def for_ever() -> None:
                loading.set()
                await asyncio.Event().wait()

            leader = asyncio.create_task(cache.get_or_load("k", for_ever))
            await loading.wait()
            followers = [asyncio.create_task(cache.get_or_load("k", lambda: "mine")) for _ in range(5)]
            await until(lambda: cache.stats().misses == 6)
            await cancelled(leader)
            async with asyncio.timeout(10):
                assert await asyncio.gather(*followers) == ["mine"] * 5

    run(main())


def vars_of(config: CacheConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in config.__slots__}


def test_coroutine_functions_are_awaited_and_others_hold_up_nobody(run: Run) -> None:
    async def main() -> None:
        async with AsyncCache() as cache:

            async def load() -> int:
                await asyncio.sleep(0)
                return 1

            go_on = threading.Event()

            def slow() -> str:
                assert go_on.wait(10), "the loop stood still meanwhile"
                return threading.current_thread().name

            assert await cache.get_or_load("a", load) == 1
            assert await cache.get_or_load("b", lambda: load()) == 1
            waiting = asyncio.create_task(cache.get_or_load("c", slow))
            assert await cache.get_or_load("d", load) == 1
            go_on.set()
            assert await waiting != threading.current_thread().name

    run(main())


def test_registered_loaders_may_be_coroutine_functions_whoever_calls(run: Run) -> None:
    async def one(n: int) -> int:
        await asyncio.sleep(0)
        return n

    async def many(keys: list[LoadKey]) -> dict[str, str]:
        await asyncio.sleep(0)
        return {key.key: key.args["n"] for key in keys}

    registry = Registry()
    registry.add(Loader("one:{n}", one))
    registry.add(Loader("many:{n}", many, many=True))

    async def main() -> None:
        async with AsyncCache(registry=registry) as cache:
            assert await cache.get_or_load("one:1") == 1
            assert await cache.get_or_load("many:2") == "2"
            report = await cache.warm([f"one:{n}" for n in range(10, 20)] + [f"many:{n}" for n in range(10)])
            assert (report.written, report.fresh, report.failed) == (19, 1, 0)

    run(main())
    cache = Cache(registry=registry)
    assert cache.get_or_load("one:1") == 1
    assert cache.get_or_load("k", lambda: one(2)) == 2
    assert cache.warm([f"one:{n}" for n in range(10, 20)] + [f"many:{n}" for n in range(10)]).written == 20


def test_coroutine_functions_called_by_threads_share_one_loop() -> None:
    cache = Cache()

    async def loop() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    with ThreadPoolExecutor(4) as pool:
        assert len({*pool.map(lambda n: cache.get_or_load(f"k{n}", loop), range(8))}) == 1


def test_several_loops_may_share_one_one_after_the_other_and_at_once(config: CacheConfig) -> None:
    cache = AsyncCache(config)

    async def use(n: int) -> None:
        for _ in range(50):
            await cache.set(f"k{n}", n)
            assert await cache.get(f"k{n}") == n
            assert await cache.get_or_load("shared", lambda: "value") == "value"
        await cache.close()

    asyncio.run(use(0))
    asyncio.run(use(1))
    threads = [threading.Thread(target=lambda n=n: asyncio.run(use(n))) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.stats().sets == 250


def test_sync_and_async_callers_share_a_cache(run: Run, make_sync_cache: MakeCache) -> None:
    cache = make_sync_cache()

    async def main() -> None:
        async with AsyncCache(cache) as awaited:
            cache.set("k", 1)
            assert await awaited.get("k") == 1
            await awaited.invalidate_pattern("k*")
            assert cache.get("k") is None
            token = cache.snapshot("k")
            assert await awaited.set("k", 2, token=token)
        assert cache.get("k") == 2  # closing the one leaves the other open

    run(main())
    assert cache.stats().sets == 2


def test_more_tasks_than_connections_wait_for_one(run: Run, config: CacheConfig) -> None:
    async def main() -> None:
        async with AsyncCache(CacheConfig(**{**vars_of(config), "max_connections": 2})) as cache:
            await cache.set("k", 1)
            assert await asyncio.gather(*(cache.get("k") for _ in range(200))) == [1] * 200
            assert cache.stats().unavailable == 0

    run(main())


def test_a_loop_that_ends_under_a_load_leaves_a_lease_that_runs_out(config: CacheConfig) -> None:
    async def main() -> None:
        cache = AsyncCache(config)
        loading = asyncio.Event()

        async def for_ever() -> None:
            loading.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(cache.get_or_load("k", for_ever))
        await loading.wait()
        task.cancel()  # and nobody awaits it
        with suppress(asyncio.CancelledError):
            await task
        await cache.close()

    asyncio.run(main())
    with Cache(config) as cache:
        began = time.monotonic()
        assert cache.get_or_load("k", lambda: "mine") == "mine"
        assert time.monotonic() - began < config.lease + 1


def test_a_refresh_goes_on_beside_its_reader(run: Run, config: CacheConfig) -> None:
    async def main() -> None:
        async with AsyncCache(config) as cache:
            refreshing, go_on = asyncio.Event(), asyncio.Event()

            async def load() -> str:
                refreshing.set()
                await go_on.wait()
                return "new"

            async def read() -> str:
                value: str = await cache.get_or_load("k", load, ttl=60, soft_ttl=0.001)
                return value

            await cache.set("k", "old", ttl=60, soft_ttl=0.001)
            async with asyncio.timeout(10):
                while not refreshing.is_set():
                    assert await read() == "old"
                assert await read() == "old"
                go_on.set()
                while await read() == "old":
                    pass
            assert cache.stats().misses == 0

    run(main())


def test_results_of_coroutine_functions_and_others_are_kept(run: Run) -> None:
    cache = AsyncCache()
    calls: list[object] = []

    @cache.cached("double:{n}", ttl=60, tags=["doubles"])
    async def double(n: int) -> int:
        calls.append(n)
        await asyncio.sleep(0)
        return 2 * n

    @cache.cached("triple:{n}")
    def triple(n: int) -> int:
        calls.append(n)
        return 3 * n

    class Repository:
        @cache.cached("row:{n}")
        async def row(self, n: int, tenant_id: str | None = None) -> str:
            calls.append((n, tenant_id))
            return f"row {n} of {tenant_id}"

    async def main() -> None:
        async with cache:
            assert await double(2) == await double(n=2) == 4
            assert await triple(2) == await triple(2) == 6
            assert calls == [2, 2]
            assert await double.invalidate(2)
            assert not await double.invalidate(2)
            assert await double.refresh(2) == 4
            await cache.invalidate_tags(["doubles"])
            assert await double(2) == 4
            assert calls == [2, 2, 2, 2]
            repository = Repository()
            assert (
                await repository.row(1, "acme")
                == await repository.row(1, tenant_id="acme")
                == "row 1 of acme"
            )
            assert await repository.row(1) == "row 1 of None"
            assert await repository.row.invalidate(1, "acme")
            assert repository.row.key(1) == "row:1"

    run(main())


def test_a_decorated_coroutine_function_looks_like_one(run: Run) -> None:
    cache = AsyncCache()

    @cache.cached("x:{n}")
    async def function(n: int) -> int:
        """Documented."""
        return n

    assert (function.__name__, function.__doc__) == ("function", "Documented.")  # type: ignore[attr-defined]
    assert asyncio.iscoroutine(waiting := function(1))
    assert run(waiting) == 1
