"""What belongs to an event loop ends with it: connections, tasks, and what a forked child would share."""

import asyncio
import gc
import multiprocessing
import selectors
import warnings
from typing import Any

import pytest

from stoker.cache import AsyncCache, CacheConfig
from stoker.cache.aio_transport import AioTransport
from tests.cache.proxy import SlowProxy
from tests.waiting import wait_until


@pytest.fixture
def config(cache_server: str, namespace: str) -> CacheConfig:
    return CacheConfig(backend="redis", redis_url=cache_server, namespace=namespace)


def transport_of(cache: AsyncCache) -> AioTransport:
    transport = cache._here().transport
    assert transport is not None
    return transport


def test_who_closes_twice_at_once_closes_and_nothing_under_way_outlives_it(
    cache_server: str, namespace: str
) -> None:
    async def main(proxy: SlowProxy) -> None:
        cache = AsyncCache(CacheConfig(backend="redis", redis_url=proxy.url, namespace=namespace))
        await cache.set("k", 1)
        transport = transport_of(cache)
        loading, go_on = asyncio.Event(), asyncio.Event()

        async def load() -> int:
            loading.set()
            await go_on.wait()
            return 2

        slow = asyncio.create_task(cache.get_or_load("slow", load))
        await loading.wait()
        proxy.holding.clear()
        proxy.delay_s = 0.1
        reading = asyncio.create_task(cache.get("k"))
        missing = asyncio.create_task(cache.get_or_load("missing", lambda: 3))
        assert await asyncio.to_thread(proxy.holding.wait, 10)
        await asyncio.gather(cache.close(), cache.close())
        go_on.set()
        assert list(await asyncio.gather(reading, missing, slow)) == [1, 3, 2]
        assert not transport._pipes
        assert not transport._callers
        assert asyncio.all_tasks() == {asyncio.current_task()}
        proxy.delay_s = 0.0
        assert await cache.get("k") == 1  # it may be used again
        await cache.close()

    with SlowProxy(cache_server) as proxy, warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(main(proxy))
        gc.collect()


def test_a_loop_that_ended_without_close_is_let_go_of(config: CacheConfig, client: Any) -> None:
    cache = AsyncCache(config)
    before = client.info("clients")["connected_clients"]

    async def read() -> None:
        await asyncio.gather(*(cache.get("k") for _ in range(5)))

    async def count() -> int:
        await cache.get("k")
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", ResourceWarning
            )  # they tell of the connections that nobody closed
            gc.collect()
        loops = len(cache._by_loop)
        await cache.close()
        return loops

    for _ in range(5):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            asyncio.run(read())
            gc.collect()
    assert asyncio.run(count()) == 1
    wait_until(lambda: client.info("clients")["connected_clients"] <= before + 1)


def test_a_forked_child_that_goes_on_with_its_parents_loop_talks_on_connections_of_its_own(
    config: CacheConfig,
) -> None:
    cache = AsyncCache(config)
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())

    def ports() -> set[int]:
        transport = cache._by_loop[loop].transport
        assert transport is not None
        writers = [pipe.raw._writer for pipe in transport._pipes]
        return {writer.get_extra_info("sockname")[1] for writer in writers if writer is not None}

    loop.run_until_complete(cache.set("k", 1))
    parents = ports()

    def in_the_child(answer: Any) -> None:
        answer.send((loop.run_until_complete(cache.get("k")), ports()))

    ours, theirs = multiprocessing.Pipe(duplex=False)
    context = multiprocessing.get_context("fork")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: this process has threads
        child = context.Process(target=in_the_child, args=(theirs,))
        child.start()
    assert ours.poll(20)
    value, childs = ours.recv()
    child.join(20)
    assert value == 1
    assert childs
    assert not parents & childs
    assert loop.run_until_complete(cache.get("k")) == 1
    loop.run_until_complete(cache.close())
    loop.close()
