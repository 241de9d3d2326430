"""What goes first when a memory cache is full: its orders against slow models of them."""

import random
import time
from typing import Any

import pytest

from stoker.cache import Cache, CacheConfig

CAPACITY = 20


class SlowLru:
    """The definition, in a list: the least recently used first."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def use(self, key: str) -> None:
        self.keys.remove(key)
        self.keys.append(key)

    def add(self, key: str) -> None:
        if len(self.keys) == CAPACITY:
            self.keys.pop(0)
        self.keys.append(key)

    def store_anew(self, key: str) -> None:
        self.use(key)

    def drop(self, key: str) -> None:
        self.keys.remove(key)


class SlowS3Fifo:
    """Algorithm 1 of the paper, in lists; one use is enough to leave the small queue."""

    def __init__(self) -> None:
        self.small: list[str] = []
        self.main: list[str] = []
        self.ghosts: list[str] = []
        self.known: set[str] = set()
        self.uses: dict[str, int] = {}

    @property
    def keys(self) -> list[str]:
        return self.small + self.main

    def use(self, key: str) -> None:
        self.uses[key] = min(3, self.uses[key] + 1)

    def store_anew(self, key: str) -> None:
        self.use(key)
        queue = self.small if key in self.small else self.main
        queue.remove(key)
        queue.append(key)

    def add(self, key: str) -> None:
        while len(self.keys) >= CAPACITY:
            self._evict()
        (self.main if key in self.known else self.small).append(key)
        self.known.discard(key)
        self.uses[key] = 0

    def drop(self, key: str) -> None:
        (self.small if key in self.small else self.main).remove(key)
        del self.uses[key]

    def _evict(self) -> None:
        while True:
            if len(self.small) >= len(self.keys) / 10:
                key = self.small.pop(0)
                if self.uses[key]:
                    self.uses[key] = 0
                    self.main.append(key)
                    continue
                self._remember(key)
            else:
                key = self.main.pop(0)
                if self.uses[key]:
                    self.uses[key] -= 1
                    self.main.append(key)
                    continue
            del self.uses[key]
            return

    def _remember(self, key: str) -> None:
        self.ghosts.append(key)
        self.known.add(key)
        while len(self.ghosts) > len(self.keys) * 9 // 10:
            self.known.discard(self.ghosts.pop(0))


@pytest.mark.parametrize(("eviction", "make_model"), [("lru", SlowLru), ("s3fifo", SlowS3Fifo)])
def test_the_entries_that_stay_are_those_of_the_slow_model(eviction: Any, make_model: Any) -> None:
    seed = time.time_ns()
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails
    rng = random.Random(seed)
    for _ in range(20):
        cache = Cache(CacheConfig(max_size=CAPACITY, eviction=eviction))
        model = make_model()
        names = [f"k{number}" for number in range(rng.choice((30, 60, 200)))]
        for _ in range(600):
            key = rng.choice(names[: rng.choice((10, len(names)))])
            there = key in model.keys
            match rng.choices(("read", "set", "set with tags", "delete"), (60, 30, 5, 5))[0]:
                case "read":
                    assert (cache.get(key) == key) is there
                    if there:
                        model.use(key)
                case "delete":
                    assert cache.delete(key) is there
                    if there:
                        model.drop(key)
                case how:
                    plain_before = there and cache.explain(key)["tags"] == []
                    cache.set(key, key, tags=["t"] if how == "set with tags" else [])
                    if not there:
                        model.add(key)
                    elif plain_before and how == "set":
                        model.use(key)
                    else:
                        model.store_anew(key)
            slots: Any = cache._store
            assert sorted(slot.place for slot in slots) == sorted(model.keys)


def test_a_scan_leaves_a_hot_set_in_an_s3_fifo_and_empties_an_lru() -> None:
    hot = [f"hot{number}" for number in range(50)]
    left = {}
    orders: list[Any] = ["lru", "s3fifo"]
    for eviction in orders:
        cache = Cache(CacheConfig(max_size=100, eviction=eviction))
        for _ in range(3):
            for key in hot:
                if cache.get(key) is None:
                    cache.set(key, 1)
        for number in range(1000):
            cache.set(f"scanned{number}", 1)
        left[eviction] = len(cache.get_many(hot))
    assert left == {"lru": 0, "s3fifo": 50}


@pytest.mark.parametrize("eviction", ["lru", "s3fifo"])
def test_deleting_and_setting_the_same_keys_leaves_nothing_behind_in_the_queues(eviction: Any) -> None:
    cache = Cache(CacheConfig(max_size=100, eviction=eviction))
    for number in range(10_000):
        cache.set(f"k{number % 90}", 1)
        cache.delete(f"k{number % 70}")
    slots: Any = cache._store
    assert len(slots) < 100
    if eviction == "s3fifo":
        assert len(slots._new) + len(slots._main) <= 2 * len(slots) + 20
