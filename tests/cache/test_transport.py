"""Connections: bounded, found dead before use, never reused after a failure."""

import asyncio
import errno
import select
import socket
import struct
import threading
import time
from contextlib import suppress

import pytest

from stoker.cache import AsyncCache, Cache, CacheConfig, InvalidationNotAcknowledged
from stoker.cache.wire import Operation
from stoker.worker.embedded import embedded_server
from tests.cache.conftest import How, MakeCache
from tests.cache.proxy import SlowProxy


def test_a_late_answer_is_never_another_requests(how: How, cache_server: str, namespace: str) -> None:
    with (
        SlowProxy(cache_server) as proxy,
        how(CacheConfig(backend="redis", redis_url=proxy.url, namespace=namespace, timeout=1.0)) as cache,
    ):
        for i in range(10):
            cache.set(f"k{i}", i)
        for i in range(10):
            proxy.delay_s = 3.0 if i % 5 == 0 else 0.0
            assert cache.get(f"k{i}", default=i) == i
            proxy.delay_s = 0.0
            assert cache.get(f"k{9 - i}") == 9 - i
        assert cache.stats().unavailable == 2


def test_a_timeout_is_kept_and_a_change_in_doubt_is_an_error(
    how: How, cache_server: str, namespace: str
) -> None:
    with (
        SlowProxy(cache_server) as proxy,
        how(CacheConfig(backend="redis", redis_url=proxy.url, namespace=namespace, timeout=0.5)) as cache,
    ):
        cache.set("k", 1)
        proxy.delay_s = 5.0
        began = time.monotonic()
        with pytest.raises(InvalidationNotAcknowledged, match="Timeout"):
            cache.delete("k")
        assert time.monotonic() - began < 2


def test_connections_are_bounded_and_the_error_says_what_to_raise(cache_server: str, namespace: str) -> None:
    held, go_on = threading.Event(), threading.Event()

    def hold() -> Operation[None]:
        yield (("PING",),)
        held.set()
        go_on.wait(10)

    config = CacheConfig(
        backend="redis", redis_url=cache_server, namespace=namespace, max_connections=1, timeout=0.5
    )
    with Cache(config) as cache:
        assert cache._transport is not None
        holder = threading.Thread(target=cache._transport.run, args=(hold(),))
        holder.start()
        assert held.wait(10)
        with pytest.raises(InvalidationNotAcknowledged, match="raise max_connections"):
            cache.delete("k")
        go_on.set()
        holder.join()
        assert cache.delete("k") is False
        assert cache.stats().unavailable == 1


def test_a_server_that_is_gone_is_found_at_the_next_call(how: How, namespace: str) -> None:
    with embedded_server("cache") as server:
        cache = how(CacheConfig(backend="redis", redis_url=server.url, namespace=namespace))
        cache.set("k", 1)
    assert cache.get("k") is None
    assert cache.get_or_load("k", lambda: 2) == 2


def test_threads_open_no_more_connections_than_they_use_at_once(make_redis: MakeCache) -> None:
    cache = make_redis()
    cache.set("k", 1)

    def work() -> None:
        for _ in range(200):
            cache.get("k")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache._transport is not None
    assert 1 <= len(cache._transport._pool.idle) <= 4


class ResettingProxy(SlowProxy):
    """A proxy that can reset its connections, as a load balancer does with idle ones."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self._resets = threading.Event()

    def _pump(self, source: socket.socket, target: socket.socket, answers: bool) -> None:  # noqa: ARG002
        with suppress(OSError):
            while not self._resets.is_set():
                if select.select([source], [], [], 0.01)[0]:
                    if not (data := source.recv(65536)):
                        return
                    target.sendall(data)

    def reset(self) -> None:
        self._resets.set()
        for thread in self._threads[1:]:
            thread.join(10)
        for end in self._sockets:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.close()
        self._resets.clear()


def test_an_idle_connection_that_was_reset_is_found_before_it_is_used(
    how: How, cache_server: str, namespace: str
) -> None:
    with (
        ResettingProxy(cache_server) as proxy,
        how(CacheConfig(backend="redis", redis_url=proxy.url, namespace=namespace)) as cache,
    ):
        cache.set("k", 1)
        proxy.reset()
        time.sleep(0.1)  # so long that it is looked at before it is used
        assert cache.delete("k")
        assert cache.stats().unavailable == 0


def test_a_time_out_of_the_socket_is_no_reply(cache_server: str, namespace: str) -> None:
    """As when the server's machine is gone: the kernel gives up."""

    async def main(proxy: SlowProxy) -> None:
        config = CacheConfig(backend="redis", redis_url=proxy.url, namespace=namespace)
        async with AsyncCache(config) as cache:
            await cache.set("k", 1)
            transport = cache._here().transport
            assert transport is not None
            for call in (cache.get, cache.delete):
                await cache.get("k")
                [pipe] = transport._pipes
                proxy.delay_s = 0.5
                proxy.holding.clear()
                asking = asyncio.create_task(call("k"))
                assert await asyncio.to_thread(proxy.holding.wait, 10)
                pipe._transport._fatal_error(TimeoutError(errno.ETIMEDOUT, "Timed out"))  # type: ignore[attr-defined]
                if call == cache.get:
                    assert await asking is None
                else:
                    with pytest.raises(InvalidationNotAcknowledged, match="Timed out"):
                        await asking
                proxy.delay_s = 0.0
            assert cache.stats().unavailable == 2

    with SlowProxy(cache_server) as proxy:
        asyncio.run(main(proxy))
