"""A memory cache between threads: nothing breaks, nothing dead is served, nothing grows."""

import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from stoker.cache import Cache, CacheConfig

THREADS = 8


@pytest.fixture(autouse=True)
def threads_change_places_often() -> Iterator[None]:
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(usual)


def together(work: Callable[[int, random.Random], None]) -> None:
    """Run in eight threads at once; the first error of any is raised."""
    seed = time.time_ns()
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number, random.Random(seed + number))
        except BaseException as error:
            errors.append(error)

    crew = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    if errors:
        raise errors[0]


def rotate(cache: Cache, turns: int) -> Callable[[int, random.Random], None]:
    """Use keys that come and go in every way there is, and check each value that is served."""

    def work(_number: int, rng: random.Random) -> None:
        for turn in range(turns):
            number = turn + rng.randrange(300)
            key, tenant = f"k:{number}", rng.choice([None, "acme"])
            match rng.randrange(20):
                case 0:
                    cache.invalidate_pattern(f"*:{number}", tenant)
                case 1:
                    cache.invalidate_tags([f"t{number % 7}"], tenant)
                case 2:
                    cache.delete(key, tenant)
                case 3:
                    cache.set(key, (key, tenant), tenant, ttl=0.001)
                case 4:
                    cache.set(key, (key, tenant), tenant, tags=[f"t{number % 7}"], soft_ttl=0.001)
                case 5:
                    assert cache.get_or_load(key, partial(tuple, (key, tenant)), tenant) == (key, tenant)
                case 6 | 7 | 8:
                    cache.set(key, (key, tenant), tenant)
                case _:
                    assert cache.get(key, tenant) in (None, (key, tenant))

    return work


@pytest.mark.parametrize("eviction", ["lru", "s3fifo"])
@pytest.mark.parametrize("max_bytes", [None, 100_000])
def test_rotating_keys_break_nothing_and_stay_within_the_bounds(eviction: Any, max_bytes: int | None) -> None:
    cache = Cache(CacheConfig(max_size=200, max_bytes=max_bytes, eviction=eviction))
    together(rotate(cache, 700))
    slots: Any = cache._store
    assert len(slots) <= 200
    assert sum(slot.size for slot in slots) == cache._core.memory._store.bytes <= (max_bytes or 0)  # type: ignore[union-attr]


@pytest.mark.parametrize("eviction", ["lru", "s3fifo"])
def test_nothing_is_read_that_was_invalidated_before_the_read_began(eviction: Any) -> None:
    cache = Cache(CacheConfig(max_size=20, eviction=eviction))
    written, dead = [0] * 30, [0] * 30
    locks = [threading.Lock() for _ in written]

    def work(_number: int, rng: random.Random) -> None:
        for _ in range(1200):
            number = rng.randrange(30)
            key = f"k:{number}"
            match rng.randrange(8):
                case 0:
                    with locks[number]:
                        written[number] += 1
                        cache.set(
                            key, written[number], tags=rng.choice([(), ["t"]]), ttl=rng.choice([None, 5])
                        )
                case 1:
                    with locks[number]:
                        newest = written[number]
                        cache.invalidate_pattern(rng.choice([key, f"?:{number}"]))
                        dead[number] = newest
                case 2:
                    cache.sweep()
                case _:
                    least = dead[number]
                    found = cache.get(key)
                    assert found is None or found > least

    together(work)


@pytest.mark.parametrize("eviction", ["lru", "s3fifo"])
def test_a_slow_load_never_covers_a_later_set(eviction: Any) -> None:
    cache = Cache(CacheConfig(max_size=100, eviction=eviction))
    truth = [0] * 5
    locks = [threading.Lock() for _ in truth]

    def work(_number: int, rng: random.Random) -> None:
        for _ in range(400):
            number = rng.randrange(5)
            key = f"k{number}"
            if rng.randrange(3):
                assert cache.get_or_load(key, partial(truth.__getitem__, number)) <= truth[number]
                if not rng.randrange(10):
                    cache.delete(key)
            else:
                with locks[number]:
                    truth[number] += 1
                    cache.set(key, truth[number])
                    assert cache.get(key) in (None, truth[number])

    together(work)


def test_a_value_is_not_given_another_ones_lifetime() -> None:
    cache = Cache(CacheConfig(max_size=10))

    def work(number: int, rng: random.Random) -> None:
        for _ in range(2000):
            ttl = rng.choice([0.5, 50])
            cache.set("k", ttl, ttl=ttl)
            cache.set("other", number)

    together(work)
    ttl_ms = cache.explain("k")["ttl_ms"]
    assert (ttl_ms > 500) == (cache.get("k") == 50)


def test_a_finalizer_may_use_the_cache() -> None:
    cache = Cache(CacheConfig(max_size=2))

    class Uses:
        def __del__(self) -> None:
            cache.get("k1")
            cache.delete("none")

    for number in range(10):
        cache.set(f"k{number}", Uses())
        cache.set(f"k{number}", Uses(), tags=["t"])
    cache.invalidate_tags(["t"])
    cache.sweep()
    assert len(cache) == 0
