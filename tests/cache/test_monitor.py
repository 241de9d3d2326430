"""What a monitor tells about hits, entries, memory and pressure."""

from typing import Any

import pytest

from stoker.cache import Cache, CacheConfig, CacheMonitor, CacheMonitorConfig, ConfigError
from stoker.cache.loaders import Registry
from stoker.worker.embedded import embedded_server
from tests.cache.conftest import MakeCache


@pytest.fixture
def make_cache(make_sync_cache: MakeCache) -> MakeCache:
    """The companions take a `Cache`."""
    return make_sync_cache


@pytest.fixture(autouse=True)
def _empty(client: Any) -> None:
    """Entries are counted on the whole database: leave nothing of other tests there."""
    client.flushdb()


def test_it_tells_at_least_what_the_guide_names(cache: Cache) -> None:
    cache._core.registry = Registry()  # no other test's loaders
    cache.set("user:1", "x" * 1000, "acme")
    cache.get("user:1", "acme")
    cache.get("user:2", "acme")
    cache.get_many(["user:1", "post:1"], "acme")
    cache.get("k")
    usage = CacheMonitor(cache).get_memory_usage()
    assert (usage["hits"], usage["misses"], usage["total_requests"]) == (2, 3, 5)
    assert (usage["hit_rate"], usage["miss_rate"]) == (0.4, 0.6)
    assert usage["cache_size"] == 1
    assert usage["memory_usage_bytes"] >= 1000
    assert 0 <= usage["usage_percent"] <= 100
    assert usage["evictions"] == 0
    assert usage["limit_bytes"] >= 0
    assert usage["tenants"]["acme"]["hit_rate"] == 0.5
    assert usage["tenants"][None]["misses"] == 1
    assert usage["templates"]["user:*"] == {"hits": 2, "misses": 1, "hit_rate": 2 / 3, "miss_rate": 1 / 3}


def test_before_the_first_request_rates_are_zero(cache: Cache) -> None:
    usage = CacheMonitor(cache).get_memory_usage()
    assert (usage["hit_rate"], usage["miss_rate"], usage["cache_size"]) == (0.0, 0.0, 0)


def test_on_redis_it_counts_the_whole_fleet(make_redis: MakeCache) -> None:
    one, other = make_redis(), make_redis()
    one.set("k", 1)
    one.get("k")
    other.get("k")
    other.get("absent", "a|b")
    other.close()  # flushes; otherwise it takes a few seconds
    usage = CacheMonitor(one).get_memory_usage()
    assert (usage["hits"], usage["misses"]) == (2, 1)
    assert usage["tenants"]["a|b"]["misses"] == 1


def test_entries_of_a_large_database_are_estimated(make_redis: MakeCache) -> None:
    cache = make_redis()
    cache.set_many({f"k{i}": i for i in range(3000)})
    assert CacheMonitor(cache).get_memory_usage()["cache_size"] == pytest.approx(3000, rel=0.2)


def test_pressure_on_memory_is_a_share_of_max_size() -> None:
    cache = Cache(CacheConfig(max_size=100))
    monitor = CacheMonitor(cache)
    cache.set_many({f"k{i}": i for i in range(90)})
    assert monitor.check_memory_pressure() is False
    assert monitor.handle_memory_pressure().reason == "no pressure"
    cache.set_many({f"more{i}": i for i in range(5)})
    assert monitor.check_memory_pressure() is True
    assert CacheMonitor(cache, CacheMonitorConfig(pressure_percent=99)).check_memory_pressure() is False
    assert monitor.handle_memory_pressure().after_bytes == 80
    assert monitor.check_memory_pressure() is False


def test_pressure_on_redis_is_a_share_of_maxmemory() -> None:
    with embedded_server("cache", cache_bytes=8 * 2**20) as server:
        config = CacheConfig(backend="redis", redis_url=server.url, compress_above=None)
        with Cache(config) as cache:
            monitor = CacheMonitor(cache)
            assert monitor.check_memory_pressure() is False
            for n in range(20):
                cache.set_many({f"k{n}:{i}": b"x" * 1000 for i in range(500)})
                if monitor.check_memory_pressure():
                    break
            assert monitor.get_memory_usage()["usage_percent"] > 90
            report = monitor.handle_memory_pressure()
            assert report.least_worth > 0
            assert monitor.get_memory_usage()["usage_percent"] < 82


def test_a_wrong_percentage_is_refused() -> None:
    with pytest.raises(ConfigError, match="pressure_percent=0: give a percentage from 1 to 100"):
        CacheMonitorConfig(pressure_percent=0)
