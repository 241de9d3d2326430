"""The memory backend's own rules: order, bounds, clock, fork."""

import subprocess
import sys

from stoker.cache import Cache, CacheConfig
from stoker.cache.backends import Write
from stoker.cache.backends.memory import MemoryBackend
from stoker.cache.bans import Kind, Rule
from stoker.cache.stats import Counters
from stoker.cache.wire import finished


class Clock:
    """Time that passes when it is told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def backend(clock: Clock | None = None, **fields: object) -> MemoryBackend:
    return MemoryBackend(CacheConfig(**fields), Counters(), clock or Clock())  # type: ignore[arg-type]


def put(store: MemoryBackend, key: str, ttl_ms: int = 0) -> None:
    finished(store.store(None, [(key, Write(key, ttl_ms, 0, (), 0))]))


def test_the_least_recently_used_goes_first() -> None:
    cache = Cache(CacheConfig(max_size=3))
    cache.set_many({"a": 1, "b": 2, "c": 3})
    cache.get("a")
    cache.set("d", 4)
    assert cache.get_many(["a", "b", "c", "d"]) == {"a": 1, "c": 3, "d": 4}
    assert cache.stats().evictions == 1
    assert len(cache) == 3


def test_len_leaves_out_what_is_expired_or_banned() -> None:
    clock = Clock()
    store = backend(clock)
    put(store, "a", ttl_ms=1000)
    put(store, "b")
    put(store, "c")
    assert len(store) == 3
    clock.now += 1
    finished(store.ban([Rule(Kind.PREFIX, "", "b")]))
    assert len(store) == 1


def test_an_empty_cache_is_still_true() -> None:
    assert Cache()


def test_bans_stay_bounded_without_a_sweeper() -> None:
    store = backend()
    for n in range(10_000):
        finished(store.ban([Rule(Kind.TAG, "", f"tag {n}")]))
    assert finished(store.explain(None, "k"))["bans"] <= 2001


def test_tokens_that_are_never_used_stay_bounded() -> None:
    clock = Clock()
    store = backend(clock)
    for n in range(10_000):
        clock.now += 1
        finished(store.snapshot(None, f"k{n}", 5000))
    assert len(store._store.leases) <= 1001


def test_a_ban_outlives_the_loads_that_began_before_it() -> None:
    store = backend()
    [(lease, _)] = finished(store.acquire([(None, "user:1")]))
    finished(store.ban([Rule(Kind.PREFIX, "", "user:")]))
    next(iter(store.sweep_steps(500, None)))
    assert finished(store.fill([(lease, Write("old", 0, 0, (), 0))])) == [False]  # type: ignore[list-item]


def test_evict_goes_down_to_the_low_watermark_oldest_first() -> None:
    cache = Cache(CacheConfig(max_size=100))
    cache.set_many({f"k{i}": i for i in range(95)})
    report = cache.evict()
    assert (report.least_worth, report.after_bytes) == (15, 80)
    assert cache.get("k14") is None
    assert cache.get("k15") == 15
    assert cache.evict().least_worth == 0


FORK = """
import os
from stoker.cache import Cache
cache = Cache()
cache.set("k", 1)
pid = os.fork()
if pid == 0:
    os._exit(0 if cache.get("k") is None and cache.get_or_load("k", lambda: 2) == 2 else 1)
assert os.waitpid(pid, 0)[1] == 0
assert cache.get("k") == 1
"""


def test_a_forked_child_starts_empty() -> None:
    subprocess.run([sys.executable, "-c", FORK], check=True, timeout=110)
