"""While the server does not answer, nobody waits for it."""

import time

import pytest

from stoker.cache import CacheConfig, InvalidationNotAcknowledged
from stoker.cache.breaker import Breaker
from tests.cache.conftest import How
from tests.cache.proxy import SlowProxy
from tests.waiting import wait_until


def test_it_opens_after_failures_in_a_row_only() -> None:
    breaker = Breaker(3, 1.0)
    for _ in range(10):
        breaker.failed()
        breaker.failed()
        breaker.succeeded()
        assert not breaker.open
    for _ in range(3):
        breaker.failed()
    assert breaker.open
    assert "tried again every 1 s" in str(breaker.refusal())
    breaker.succeeded()
    assert not breaker.open


def test_a_server_that_hangs_costs_a_few_timeouts_not_one_a_read(
    how: How, cache_server: str, namespace: str
) -> None:
    with SlowProxy(cache_server) as proxy:
        config = CacheConfig(
            backend="redis", redis_url=proxy.url, namespace=namespace, timeout=0.5, breaker_reset=0.3
        )
        with how(config) as cache:
            cache.set("k", "stored")
            proxy.delay_s = 3.0
            waited = 0
            for _ in range(300):
                began = time.monotonic()
                assert cache.get_or_load("k", lambda: "loaded") == "loaded"
                waited += time.monotonic() - began >= config.timeout
            assert waited <= 10
            with pytest.raises(InvalidationNotAcknowledged):
                cache.delete("other")
            proxy.delay_s = 0.0
            wait_until(lambda: cache.get("k") == "stored", within=10)
            assert cache.delete("k")
