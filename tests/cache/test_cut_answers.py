"""Answers that are cut off at any byte, that come byte by byte, or too slowly: never one taken for another."""

import time
from collections.abc import Callable

import pytest

from stoker.cache import Cache, CacheConfig, InvalidationNotAcknowledged
from tests.cache.conftest import How
from tests.cache.cutting import CuttingProxy


@pytest.fixture
def proxied(cache_server: str) -> CuttingProxy:
    return CuttingProxy(cache_server)


def config_for(proxy: CuttingProxy, namespace: str, timeout: float = 5.0) -> CacheConfig:
    return CacheConfig(
        backend="redis", redis_url=proxy.url, namespace=namespace, timeout=timeout, breaker_failures=10**6
    )


def test_an_answer_that_is_cut_off_at_any_byte_is_no_answer(
    how: How, proxied: CuttingProxy, namespace: str
) -> None:
    with proxied as proxy, how(config_for(proxy, namespace)) as cache:
        cache.set("a", "first")
        cache.set("b", "second")
        assert cache.get("a") == "first"
        before = proxy.passed
        assert cache.get("a") == "first"
        whole = proxy.passed - before
        assert whole > 100
        for offset in range(whole):
            proxy.left = offset
            assert cache.get("a") is None, offset
            proxy.left = None
            assert cache.get("b") == "second", offset
        assert cache.stats().unavailable == whole


def test_a_change_whose_answer_is_cut_off_is_in_doubt(
    how: How, proxied: CuttingProxy, namespace: str
) -> None:
    changes: dict[str, Callable[[Cache], object]] = {
        "set": lambda cache: cache.set("a", 1),
        "delete": lambda cache: cache.delete("a"),
        "ban": lambda cache: cache.invalidate_tags(["t"]),
    }
    with proxied as proxy, how(config_for(proxy, namespace)) as cache:
        for name, change in changes.items():
            change(cache)
            before = proxy.passed
            change(cache)
            for offset in range(proxy.passed - before):
                proxy.left = offset
                with pytest.raises(InvalidationNotAcknowledged):
                    change(cache)
                proxy.left = None
                assert cache.get("b", default=name) == name


def test_answers_that_come_byte_by_byte_are_put_together(
    how: How, proxied: CuttingProxy, namespace: str
) -> None:
    with proxied as proxy, how(config_for(proxy, namespace)) as cache:
        cache.set_many({f"k{n}": n for n in range(5)})
        proxy.gap_s = 0.0
        assert cache.get("k3") == 3
        assert cache.get_many([f"k{n}" for n in range(6)]) == {f"k{n}": n for n in range(5)}
        assert cache.delete("k3")
        assert cache.stats().unavailable == 0


def test_an_answer_that_trickles_in_has_no_more_time_than_any_other(
    how: How, proxied: CuttingProxy, namespace: str
) -> None:
    with proxied as proxy, how(config_for(proxy, namespace, timeout=0.5)) as cache:
        cache.set("k", "value")
        assert cache.get("k") == "value"
        proxy.gap_s = 0.02  # each byte in time, all of them in four seconds
        began = time.monotonic()
        assert cache.get("k") is None
        assert time.monotonic() - began < 2
        assert cache.stats().unavailable == 1
        proxy.gap_s = None
        assert cache.get("k") == "value"
