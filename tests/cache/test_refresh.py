"""Values are loaded anew before they are missed, and an old one is better than none: but only past its soft expiry."""

import math
import random
import threading
import time
from typing import Any

import pytest

from stoker.cache import Cache, CacheConfig
from stoker.cache.backends.memory import MemoryBackend
from stoker.cache.flight import Flights, Hit, load_once
from stoker.cache.loaders import Registry
from stoker.cache.loading import Loading
from stoker.cache.programs import Program
from stoker.cache.protocol import Lease
from stoker.cache.stats import Counters
from tests.cache.conftest import MakeCache
from tests.waiting import wait_until

SEED = 7


def loading(**fields: Any) -> Loading:
    config = CacheConfig(**fields)
    return Loading(config, MemoryBackend(config, Counters()), Counters(), Registry(), None)


@pytest.mark.parametrize("left_ms", [0.5, 5, 10, 20, 50])
def test_the_chance_of_an_early_refresh_is_that_of_xfetch(
    left_ms: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P(refresh) = exp(-left / (beta * load cost)), here with beta 2 and 10 ms."""
    monkeypatch.setattr("stoker.cache.loading.random", random.Random(SEED))
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
        time.sleep(0.03)
        return next(versions)

    assert cache.get_or_load("k", load, ttl=2) == 0
    wait_until(lambda: cache.get_or_load("k", load, ttl=2) > 0)
    assert cache.stats().misses == 1


def test_when_the_origin_fails_the_stale_value_is_served_until_it_expires(make_cache: MakeCache) -> None:
    cache = make_cache()
    calls: list[float] = []

    def fail() -> None:
        calls.append(time.monotonic())
        raise RuntimeError("the origin is down")

    cache.get_or_load("k", lambda: "old", ttl=0.9, soft_ttl=0.05)
    wait_until(lambda: cache.get_or_load("k", fail, ttl=0.9, soft_ttl=0.05) == "old" and bool(calls))
    for _ in range(100):
        assert cache.get_or_load("k", fail, ttl=0.9, soft_ttl=0.05) == "old"
    assert len(calls) == 1, "a key that could not be refreshed is left alone for a second"
    wait_until(lambda: cache.get("k") is None)
    with pytest.raises(RuntimeError, match="the origin is down"):
        cache.get_or_load("k", fail)


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

    def __init__(self, seen: Hit | None) -> None:
        self.seen = seen

    def acquire(self) -> Program[Any]:
        return Lease(None, "k", b"l", None), Hit("stale", stale=True)  # type: ignore[arg-type]
        yield

    def load(self, lease: Lease | None) -> Program[Any]:  # noqa: ARG002
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
