"""What a memory cache does without its lock, interrupted at the worst moments: the clock is where others cut in."""

from collections.abc import Callable
from typing import Any

import pytest

from stoker.cache import Cache, CacheConfig
from stoker.cache.backends import Write
from stoker.cache.backends.memory import MemoryBackend
from stoker.cache.bans import Kind, Rule
from stoker.cache.protocol import Lease
from stoker.cache.stats import Counters
from stoker.cache.wire import finished

both = pytest.mark.parametrize("eviction", ["lru", "s3fifo"])


class Interrupted:
    """Time, which lets another thread's work happen when it is asked for."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.meanwhile: Callable[[], None] | None = None

    def __call__(self) -> float:
        work, self.meanwhile = self.meanwhile, None
        if work is not None:
            work()
        return self.now


def backend(clock: Interrupted, eviction: Any) -> MemoryBackend:
    return MemoryBackend(CacheConfig(eviction=eviction, default_ttl=60), Counters(), clock)


def put(store: MemoryBackend, value: str) -> None:
    """As the engine does it."""
    if not store.update("k", None, value, None):
        store.put(None, "k", Write(value, 60_000, 0, (), 0))


def read(store: MemoryBackend) -> Any:
    slot = store.peek("k", None)
    return slot and slot.value


@both
@pytest.mark.parametrize("how", ["banned", "expired"])
def test_who_reads_while_a_dead_value_is_written_over_gets_the_new_one_or_none(
    eviction: Any, how: str
) -> None:
    clock = Interrupted()
    store = backend(clock, eviction)
    seen = []
    put(store, "dead")
    if how == "banned":
        finished(store.ban([Rule(Kind.PREFIX, "", "k")]))
    else:
        clock.now += 61
    clock.meanwhile = lambda: seen.append(read(store))
    put(store, "new")
    assert seen in ([None], ["new"])
    assert read(store) == "new"


@both
def test_a_set_while_a_load_is_being_stored_comes_after_it(eviction: Any) -> None:
    clock = Interrupted()
    store = backend(clock, eviction)
    put(store, "first")
    [(lease, _)] = finished(store.acquire([(None, "k")]))
    assert isinstance(lease, Lease)
    done: list[bool] = []

    def set_meanwhile() -> None:
        done.append(store.update("k", None, "newer", None))

    # Given a fill that found its lease good, which is the first time it looks at the clock, and has not stored yet
    clock.meanwhile = lambda: setattr(clock, "meanwhile", set_meanwhile)
    finished(store.fill([(lease, Write("loaded earlier", 60_000, 0, (), 5))]))
    # When another thread sets the key, then it is told to wait, or it is its value that stays
    assert done == [False] or (done == [True] and read(store) == "newer")


@both
def test_a_set_over_an_entry_ends_what_was_under_way(eviction: Any) -> None:
    cache = Cache(CacheConfig(eviction=eviction))
    cache.set("k", 1)
    token = cache.snapshot("k")
    cache.set("k", 2)
    assert not cache.set("k", "computed before", token=token)
    assert cache.get("k") == 2
