"""Eviction on Redis, on a small server of its own."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from stoker.cache import Cache, CacheConfig, CacheUnavailable
from stoker.cache.cut import Cut, cut_for
from stoker.cache.sampling import Sample
from stoker.cache.worth import ORDER, Turn
from stoker.worker.embedded import embedded_server
from tests.waiting import wait_until

LIMIT = 16 * 2**20


@pytest.fixture(scope="module")
def small_url() -> Iterator[str]:
    with embedded_server("cache", cache_bytes=LIMIT) as server:
        yield server.url


@pytest.fixture
def cache(small_url: str) -> Iterator[Cache]:
    with redis.Redis.from_url(small_url) as client:
        client.flushall()
        client.config_set("maxmemory", LIMIT)
        client.config_set("maxmemory-policy", "volatile-lru")
    with Cache(CacheConfig(backend="redis", redis_url=small_url, compress_above=None)) as opened:
        yield opened


def used(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        return int(client.info("memory")["used_memory"])


def fill(cache: Cache, name: str, count: int, **options: object) -> None:
    cache.set_many({f"{name}:{i}": b"x" * 1000 for i in range(count)}, **options)  # type: ignore[arg-type]


def test_below_the_high_watermark_nothing_goes(cache: Cache) -> None:
    fill(cache, "k", 100)
    report = cache.evict()
    assert (report.scanned, report.reason) == (0, "below the high watermark")


def test_the_dead_go_first_and_it_stops_at_the_target(cache: Cache, small_url: str) -> None:
    fill(cache, "dead", 3000)
    fill(cache, "live", 3000)
    cache.invalidate_pattern("dead:*")
    target = used(small_url) - 2_000_000
    report = cache.evict(target_bytes=target)
    assert report.reason == "reached the target"
    assert report.after_bytes <= target
    assert report.dead > 0
    assert report.least_worth == 0
    assert len(cache.get_many([f"live:{i}" for i in range(3000)])) == 3000


def test_then_what_is_past_its_soft_expiry(cache: Cache, small_url: str) -> None:
    fill(cache, "soft", 2000, soft_ttl=0.01)
    fill(cache, "live", 2000)
    report = cache.evict(target_bytes=used(small_url) - 1_000_000)
    assert report.stale > 0
    assert (report.dead, report.least_worth) == (0, 0)


def test_then_the_longest_unread(cache: Cache, small_url: str) -> None:
    fill(cache, "old", 4000)  # far more than have to go, if the first cut should not do
    with redis.Redis.from_url(small_url) as client:
        wait_until(lambda: client.object("idletime", "{stoker:0}:e::old:3999") >= 2, within=10)
    fill(cache, "new", 2000)
    report = cache.evict(target_bytes=used(small_url) - 1_500_000)
    assert report.least_worth > 0
    assert len(cache.get_many([f"new:{i}" for i in range(2000)])) == 2000


def test_it_counts_reads_where_the_server_does(cache: Cache, small_url: str) -> None:
    with redis.Redis.from_url(small_url) as client:
        client.config_set("maxmemory-policy", "volatile-lfu")
    fill(cache, "k", 3000)
    report = cache.evict(target_bytes=used(small_url) - 1_000_000)
    assert report.least_worth > 0
    assert report.reason == "reached the target"


def test_above_the_high_watermark_it_goes_down_to_the_low_one(cache: Cache, small_url: str) -> None:
    fill(cache, "k", 4000)
    limit = int(used(small_url) / 0.95)
    with redis.Redis.from_url(small_url) as client:
        client.config_set("maxmemory", limit)
    report = cache.evict()
    assert report.after_bytes <= 0.8 * limit
    assert report.reason == "reached the target"


def test_without_a_limit_it_says_what_to_set(cache: Cache, small_url: str) -> None:
    with redis.Redis.from_url(small_url) as client:
        client.config_set("maxmemory", 0)
    assert "set it, or give target_bytes" in cache.evict().reason


def test_all_it_may_goes_though_a_sample_met_none_of_it() -> None:
    """Many keys of others hide a few entries from a random sample; they go all the same if memory is to come free."""
    assert cut_for(Sample([], 0.0), 1.0, {}, 0).rank > (ORDER[Turn.LAST], 1e9, 0)
    assert cut_for(Sample([], 0.0), 0.0, {}, 0) == Cut()


def test_it_goes_on_from_its_cursor(cache: Cache, small_url: str) -> None:
    fill(cache, "dead", 4000)
    cache.invalidate_pattern("*")
    steps = cache.evict_steps(target_bytes=used(small_url) - 3_000_000, batch=200)
    step = next(iter(steps))
    assert not step.last
    *_, last = cache.evict_steps(batch=200, cursor=step.cursor)
    assert last.report.reason == "reached the target"
    assert last.report.dead > step.report.dead > 0
    [over] = cache.evict_steps(batch=200, cursor=last.cursor)  # killed between its end and its report
    assert (over.last, over.report) == (True, last.report)


def test_out_of_memory_a_set_says_so_and_leaves_nothing_old(cache: Cache, small_url: str) -> None:
    cache.set("k", "old")
    with redis.Redis.from_url(small_url) as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1_000_000)
        assert cache.set("k", "new") is False
        assert cache.get("k") is None
        assert cache.get_or_load("l", lambda: "loaded") == "loaded"
        cache.invalidate_pattern("k*")  # control scripts may use memory
        cache.delete("k")
        client.config_set("maxmemory", LIMIT)
    assert cache.set("k", "new") is True
    assert cache.get_or_load("l", lambda: "again") == "again"  # the lease was given back


def test_killed_after_any_batch_it_goes_on_and_drops_no_more_than_it_would_have(
    cache: Cache, small_url: str
) -> None:
    fill(cache, "k", 3000)
    target = used(small_url) - 1_000_000
    step = next(cache.evict_steps(target_bytes=target, batch=100))
    while not step.last:
        cursor = json.loads(json.dumps(step.cursor))  # as a job keeps it; its process is killed here
        step = next(cache.evict_steps(target_bytes=target, batch=100, cursor=cursor))
    assert step.report.reason == "reached the target"
    left = len(cache.get_many([f"k:{i}" for i in range(3000)]))
    assert step.report.dropped == 3000 - left < 1200


def test_two_at_once_drop_what_one_would_have(cache: Cache, small_url: str) -> None:
    with redis.Redis.from_url(small_url) as client:
        client.config_set("maxmemory-policy", "volatile-lfu")
    fill(cache, "k", 3000)
    target = used(small_url) - 1_000_000
    with ThreadPoolExecutor(2) as threads:
        reports = list(threads.map(lambda _: cache.evict(target_bytes=target), range(2)))
    # Before a read: the first one costs the server a script, and buffers
    assert used(small_url) <= target + 100_000
    left = len(cache.get_many([f"k:{i}" for i in range(3000)]))
    assert sum(report.dropped for report in reports) == 3000 - left < 1500


def test_a_server_that_is_gone_in_the_middle_costs_time_alone() -> None:
    with embedded_server("cache", cache_bytes=LIMIT) as gone:
        config = CacheConfig(backend="redis", redis_url=gone.url, compress_above=None, timeout=0.5)
        with Cache(config) as cache:
            fill(cache, "k", 3000)
            steps = cache.evict_steps(target_bytes=used(gone.url) - 1_000_000, batch=100)
            cursor = next(steps).cursor
            gone.child.process.kill()
            with pytest.raises(CacheUnavailable):
                list(steps)
    with embedded_server("cache", cache_bytes=LIMIT) as back:  # it comes back empty, and is filled anew
        config = CacheConfig(backend="redis", redis_url=back.url, compress_above=None)
        with Cache(config) as cache:
            fill(cache, "k", 100)
            *_, last = cache.evict_steps(batch=100, cursor=cursor)
            assert last.report.reason == "reached the target"
            assert len(cache.get_many([f"k:{i}" for i in range(100)])) > 0


def test_it_stays_on_guard_while_memory_rises_fast_and_not_longer(cache: Cache, small_url: str) -> None:
    fill(cache, "k", 5000)
    quiet = list(cache.evict_steps(stay=60))
    assert len(quiet) < 5
    with redis.Redis.from_url(small_url) as client:
        client.config_set("maxmemory", int(used(small_url) / 0.86))
        steps = cache.evict_steps(stay=60)
        most = 0.0
        for number, _step in zip(range(24), steps, strict=False):
            fill(cache, f"flood{number}", 100)
            facts = client.info("memory")
            most = max(most, (facts["used_memory"] - facts["mem_not_counted_for_evict"]) / facts["maxmemory"])
        steps.close()
        assert client.info("stats")["evicted_keys"] == 0
    assert 0.85 < most < 0.95
