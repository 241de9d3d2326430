"""How much a memory cache may hold: entries, and estimated bytes."""

import random
import sys
import time
from dataclasses import dataclass
from typing import Any

import pytest

from stoker.cache import Cache, CacheConfig
from stoker.cache.backends.sizes import ENTRY_BYTES, value_bytes

both = pytest.mark.parametrize("eviction", ["lru", "s3fifo"])


def bytes_used(cache: Cache) -> int:
    return cache._run(cache._core.backend.usage()).used_bytes


@both
def test_never_more_entries_than_max_size(eviction: Any) -> None:
    cache = Cache(CacheConfig(max_size=50, eviction=eviction))
    for number in range(500):
        cache.set(f"k{number}", number)
        cache.get_or_load(f"loaded{number % 70}", lambda: 1, tags=["t"])
        assert len(cache._store) <= 50
    assert len(cache._store) == 50
    assert cache.stats().evictions == cache.stats().sets + cache.stats().fills - 50


@both
def test_never_more_bytes_than_max_bytes_whatever_grows_shrinks_or_goes(eviction: Any) -> None:
    seed = time.time_ns()
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails
    rng = random.Random(seed)
    cache = Cache(CacheConfig(max_size=10_000, max_bytes=40_000, eviction=eviction))
    for number in range(3000):
        key, tenant = f"k{rng.randrange(200)}", rng.choice([None, "acme"])
        match rng.randrange(12):
            case 0:
                cache.delete(key, tenant)
            case 1:
                cache.invalidate_tags(["t"], tenant)
            case 2:
                cache.sweep()
            case 3:
                cache.set(key, "x" * 50_000, tenant)
            case _:
                cache.set(key, "x" * rng.randrange(3000), tenant, tags=rng.choice([(), ("t",)]))
        slots: Any = cache._store
        assert bytes_used(cache) == sum(slot.size for slot in slots) <= 40_000, f"after {number} operations"
    assert cache.stats().evictions > 0
    cache.close()
    assert bytes_used(cache) == 0


def test_keys_count_as_bytes() -> None:
    cache = Cache(CacheConfig(max_size=1000, max_bytes=100_000))
    for number in range(1000):
        cache.set(f"{number:0>1000}", None)
    assert len(cache) < 100_000 / 1000


@both
def test_a_value_larger_than_the_cache_is_refused_and_the_old_one_gone(eviction: Any) -> None:
    cache = Cache(CacheConfig(max_bytes=10_000, eviction=eviction))
    assert cache.set("k", "small")
    assert not cache.set("k", "x" * 10_000)
    assert cache.get("k") is None
    assert cache.get_or_load("k", lambda: "y" * 10_000) == "y" * 10_000
    assert cache.get("k") is None
    assert cache.set("k", "small")


def test_eviction_under_max_bytes_goes_by_bytes() -> None:
    cache = Cache(CacheConfig(max_bytes=100_000, max_size=1000))
    for number in range(95):
        cache.set(f"k{number:02}", "x" * 650)
    before = bytes_used(cache)
    assert before > 90_000
    report = cache.evict()
    assert (report.before_bytes, report.after_bytes) == (before, bytes_used(cache))
    assert 79_000 < report.after_bytes <= report.target_bytes == 80_000  # type: ignore[operator]
    assert cache.evict(target_bytes=50_000).after_bytes <= 50_000


@dataclass
class Plain:
    inside: Any


@dataclass(slots=True)
class Slotted:
    inside: Any


@pytest.mark.parametrize(
    "wrap",
    [lambda x: [x], lambda x: {"k": x}, lambda x: ((x,),), Plain, Slotted, lambda x: {"a": [Plain(x)]}],
)
def test_what_a_value_holds_is_counted_once(wrap: Any) -> None:
    text = "x" * 10_000
    assert 10_000 < value_bytes(wrap(text)) < 11_500
    assert value_bytes([wrap(text), text]) < 12_000


def test_a_value_that_holds_itself_has_a_size() -> None:
    value: list[Any] = []
    value.append(value)
    assert value_bytes(value) == sys.getsizeof(value)


def test_the_size_of_a_large_value_is_estimated_from_its_part() -> None:
    numbers = [float(number) for number in range(100_000)]
    assert value_bytes(numbers) == pytest.approx(sys.getsizeof(numbers) + 24 * len(numbers), rel=0.4)


def test_an_entry_is_taken_to_be_about_as_large_as_it_is() -> None:
    import tracemalloc

    keys = [f"key:{number}" for number in range(20_000)]
    cache = Cache(CacheConfig(max_size=len(keys)))
    tracemalloc.start()
    try:
        for key in keys:
            cache.set(key, None)
        each = tracemalloc.get_traced_memory()[0] / len(keys)
    finally:
        tracemalloc.stop()
    assert each == pytest.approx(ENTRY_BYTES, rel=0.2)
