"""Values are loaded anew before they are missed, and an old one is better than none: but only past its soft expiry."""

import asyncio
import itertools
import math
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from stoker.cache import AsyncCache, Cache, CacheConfig
from stoker.cache.backends.memory import MemoryBackend
from stoker.cache.flight import Flights, Hit, load_once
from stoker.cache.loaders import Registry
from stoker.cache.loading import Loading
from stoker.cache.programs import Program, unnoticed
from stoker.cache.protocol import Lease
from stoker.cache.stats import Counters
from tests.cache.conftest import MakeCache
from tests.waiting import wait_until

SEED = 7
STALE = Hit("stale", stale=True)


def loading(**fields: Any) -> Loading:
    config = CacheConfig(**fields)
    return Loading(config, MemoryBackend(config, Counters()), Counters(), Registry(), None)


@pytest.mark.parametrize("left_ms", [0.5, 5, 10, 20, 50])
def test_the_chance_of_an_early_refresh_is_that_of_xfetch(
    left_ms: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P(refresh) = exp(-left / (beta * load cost)), here with beta 2 and 10 ms."""
    monkeypatch.setattr("stoker.cache.loading.CHANCE", random.Random(SEED))
    early = loading(early_refresh=2)
    hit = Hit("value", stale=False, left_ms=left_ms, load_us=10_000)
    share = sum(early.wants_refresh(hit) for _ in range(20_000)) / 20_000
    assert share == pytest.approx(math.exp(-left_ms / 20), abs=0.015), f"seed {SEED}"


def test_it_can_be_turned_off_and_does_not_concern_what_never_expires() -> None:
    off = loading(early_refresh=0)
    assert not any(off.wants_refresh(Hit("v", False, 0.001, 10**6)) for _ in range(1000))
    assert not loading().wants_refresh(Hit("v", False, math.inf, 10**6))
    assert off.wants_refresh(Hit("v", stale=True))


def test_a_costly_value_is_loaded_before_it_expires_while_the_old_one_is_served(
    make_cache: MakeCache,
) -> None:
    cache = make_cache(early_refresh=100)
    versions = iter(range(1000))

    def load() -> int:
        time.sleep(0.06)
        return next(versions)

    assert cache.get_or_load("k", load, ttl=6) == 0
    wait_until(lambda: cache.get_or_load("k", load, ttl=6) > 0)
    assert cache.stats().misses == 1


def test_when_the_origin_fails_the_stale_value_is_served_until_it_expires(make_cache: MakeCache) -> None:
    cache = make_cache()
    calls: list[float] = []

    def fail() -> None:
        calls.append(time.monotonic())
        raise RuntimeError("the origin is down")

    cache.set("k", "old", ttl=60, soft_ttl=0.001)
    wait_until(lambda: cache.get_or_load("k", fail) == "old" and bool(calls))
    for _ in range(100):
        assert cache.get_or_load("k", fail) == "old"
    gaps = [later - earlier for earlier, later in itertools.pairwise(calls)]
    assert all(gap >= 1 for gap in gaps), "a key that could not be refreshed is left alone for a second"
    cache.set("short", "old", ttl=0.3, soft_ttl=0.001)
    wait_until(lambda: cache.get("short") is None)
    with pytest.raises(RuntimeError, match="the origin is down"):
        cache.get_or_load("short", fail)


def test_what_was_invalidated_is_never_served_however_the_origin_fails(cache: Cache) -> None:
    def fail() -> None:
        raise RuntimeError("the origin is down")

    for invalidate in (
        lambda: cache.delete("k"),
        lambda: cache.invalidate_tags(["t"]),
        lambda: cache.invalidate_pattern("k*"),
    ):
        cache.get_or_load("k", lambda: "old", ttl=60, soft_ttl=0.001, tags=["t"])
        invalidate()
        with pytest.raises(RuntimeError):
            cache.get_or_load("k", fail)


class Scripted:
    """A load whose lease is granted beside a stale value, and whose loader fails."""

    name = (None, "k")
    released = False

    def __init__(self, seen: Hit | None, found: Hit = STALE) -> None:
        self.seen = seen
        self.found = found

    def acquire(self) -> Program[Any]:
        return Lease(None, "k", b"l", None), self.found  # type: ignore[arg-type]
        yield

    def load(self, lease: Lease | None, begins: Callable[[], None] = unnoticed) -> Program[Any]:  # noqa: ARG002
        raise RuntimeError("the origin is down")
        yield

    def release(self, lease: Lease) -> Program[None]:  # noqa: ARG002
        self.released = True
        return
        yield

    def read(self) -> Program[None]:
        raise AssertionError
        yield

    def fill(self, lease: Lease, value: Any, load_us: int) -> Program[bool]:  # noqa: ARG002
        raise AssertionError
        yield


def outcome(program: Program[Any]) -> Any:
    try:
        next(program)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits for something")


def test_a_reader_whose_load_fails_is_served_the_stale_value_that_turned_up_and_a_refresh_tells() -> None:
    attempt = Scripted(seen=None)
    assert outcome(load_once(Flights(threading.Event), attempt, 10)) == "stale"
    assert attempt.released
    refresh = Scripted(seen=Hit("stale", stale=True))
    with pytest.raises(RuntimeError):
        outcome(load_once(Flights(threading.Event), refresh, 10))
    assert refresh.released


def test_a_value_that_expired_while_its_load_failed_is_not_served() -> None:
    expired = Scripted(seen=None, found=Hit("stale", stale=True, left_ms=0))
    with pytest.raises(RuntimeError, match="the origin is down"):
        outcome(load_once(Flights(threading.Event), expired, 10))
    assert expired.released


@pytest.mark.parametrize("left_ms", [math.inf, 1000])
def test_what_somebody_else_has_refreshed_is_not_loaded_again(left_ms: float) -> None:
    """Also if the new value lives no longer than the stale one: for ever, or shorter by its jitter."""
    seen = Hit("old", stale=True, left_ms=left_ms)
    refresh = Scripted(seen, found=Hit("new", stale=False, left_ms=left_ms))
    assert outcome(load_once(Flights(threading.Event), refresh, 10)) == "new"
    assert refresh.released


def test_a_refresh_that_was_cancelled_before_it_began_is_made_up_for() -> None:
    async def main() -> None:
        async with AsyncCache(CacheConfig(max_load=0.3, lease=0.3)) as cache:
            versions = iter(range(10))

            async def load() -> int:
                return next(versions)

            async def read() -> int:
                value: int = await cache.get_or_load("k", load, ttl=60, soft_ttl=0.001)
                return value

            assert await read() == 0
            await asyncio.sleep(0.01)
            assert await read() == 0
            for task in cache._here().loop._spawned:
                task.cancel()
            async with asyncio.timeout(10):
                while await read() == 0:
                    await asyncio.sleep(0.01)

    asyncio.run(main())


def test_a_lease_is_renewed_though_the_last_renewer_has_just_ended(make_redis: MakeCache) -> None:
    cache = make_redis(lease=1.5, max_load=10)
    ended = threading.Thread(target=bool)
    ended.start()
    ended.join()
    cache._threads._renewer = ended
    other = make_redis(lease=1.5, max_load=10)
    loading = threading.Event()

    def load() -> str:
        loading.set()
        time.sleep(2)  # longer than a lease lasts
        return "slowly"

    slow = threading.Thread(target=cache.get_or_load, args=("k", load))
    slow.start()
    assert loading.wait(10)
    assert other.get_or_load("k", lambda: "mine") == "slowly"
    slow.join()


def test_closing_waits_for_who_is_about_to_hand_over_a_refresh() -> None:
    cache = Cache()
    with cache._threads._lock:
        closing = threading.Thread(target=cache.close)
        closing.start()
        closing.join(0.2)
        assert closing.is_alive()
    closing.join(10)
    assert not closing.is_alive()
