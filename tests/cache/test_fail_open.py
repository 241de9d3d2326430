"""Without the server the program goes on: its loaders are called, once for all who ask together, and not too many."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from stoker.cache import Cache, CacheConfig, InvalidationNotAcknowledged, LoaderError
from stoker.cache.flight import Flights
from stoker.worker.embedded import free_port
from tests.cache.conftest import How, MakeCache
from tests.waiting import wait_until


class Origin:
    """Counts its calls, and how many it answers at once."""

    def __init__(self, seconds: float = 0.0, until: Callable[[], bool] = lambda: True) -> None:
        self.calls = self.most = self._now = 0
        self._seconds = seconds
        self._until = until
        self._lock = threading.Lock()
        self.began = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def load(self) -> str:
        with self._lock:
            self.calls += 1
            self._now += 1
            self.most = max(self.most, self._now)
        self.began.set()
        try:
            wait_until(self._until)
            time.sleep(self._seconds)
            self.go_on.wait(10)
        finally:
            with self._lock:
                self._now -= 1
        return "loaded"


def flights(cache: Any) -> Flights:
    """The loads under way among the callers of this cache."""
    if isinstance(cache, Cache):
        return cache._threads.under_way.flights
    [here] = cache.aio._by_loop.values()
    found: Flights = here.loop.under_way.flights
    return found


def together(number: int, call: Callable[[int], Any]) -> list[Any]:
    """Call from so many threads at once."""
    start = threading.Barrier(number)

    def run(n: int) -> Any:
        start.wait()
        return call(n)

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(run, range(number)))


@pytest.fixture
def without_server(how: How) -> Cache:
    """A cache whose server is not there, and that knows it."""
    cache = how(
        CacheConfig(backend="redis", redis_url=f"redis://127.0.0.1:{free_port()}", breaker_failures=1)
    )
    assert cache.get("k") is None
    return cache


def test_reads_load_and_changes_raise(without_server: Cache) -> None:
    cache = without_server
    assert cache.get("k", default=0) == 0
    assert cache.get_many(["k"]) == {}
    assert cache.get_or_load("k", lambda: 1) == 1
    assert cache.get_or_load("k", lambda: 2) == 2
    for change in (
        lambda: cache.set("k", 1),
        lambda: cache.set_many({"k": 1}),
        lambda: cache.delete("k"),
        lambda: cache.invalidate_tags(["t"]),
        lambda: cache.snapshot("k"),
    ):
        with pytest.raises(InvalidationNotAcknowledged):
            change()


def test_who_asks_together_shares_a_load(without_server: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stoker.cache.flight.GATHER_S", 10)  # nobody comes too late on a busy machine
    before = without_server.stats().unavailable
    origin = Origin(0.2, until=lambda: without_server.stats().unavailable - before >= 16)
    assert together(16, lambda _: without_server.get_or_load("k", origin.load)) == ["loaded"] * 16
    assert origin.calls <= 3, "one for the first, one for those who were gathered while it loaded"


def test_nobody_waits_long_for_a_load_that_began_before_his_call(without_server: Cache) -> None:
    first = Origin()
    first.go_on.clear()
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(without_server.get_or_load, "k", first.load)
        assert first.began.wait(10)
        assert without_server.get_or_load("k", lambda: "mine") == "mine"  # while the first is under way
        first.go_on.set()
        assert slow.result(10) == "loaded"


def test_a_failing_loader_fails_its_own_callers_only(without_server: Cache) -> None:
    def call(n: int) -> Any:
        def fail() -> None:
            time.sleep(0.02)
            raise RuntimeError("mine")

        try:
            return without_server.get_or_load("k", fail if n % 2 else lambda: "loaded")
        except RuntimeError:
            return "failed" if n % 2 else "not my error"

    outcomes = together(12, call)
    assert set(outcomes[::2]) == {"loaded"}
    assert set(outcomes[1::2]) <= {"loaded", "failed"}


def test_no_more_loads_run_at_once_than_the_cap(make_cache: MakeCache) -> None:
    cache = make_cache(max_loads=3)
    origin = Origin(seconds=0.02)
    assert together(12, lambda n: cache.get_or_load(f"k{n}", origin.load)) == ["loaded"] * 12
    assert (origin.calls, origin.most) == (12, 3)


def test_the_cap_holds_without_the_server_too(how: How) -> None:
    url = f"redis://127.0.0.1:{free_port()}"
    cache = how(CacheConfig(backend="redis", redis_url=url, breaker_failures=1, max_loads=3))
    origin = Origin(seconds=0.02)
    assert together(12, lambda n: cache.get_or_load(f"k{n}", origin.load)) == ["loaded"] * 12
    assert (origin.calls, origin.most) == (12, 3)


def test_a_loader_that_reads_through_the_cache_needs_no_second_place(make_cache: MakeCache) -> None:
    cache = make_cache(max_loads=1)
    assert cache.get_or_load("a", lambda: cache.get_or_load("b", lambda: 1) + 1) == 2
    assert cache.get_many(["a", "b"]) == {"a": 2, "b": 1}


def test_who_never_gets_his_turn_is_told_why(make_cache: MakeCache) -> None:
    cache = make_cache(max_loads=1, max_load=0.3, lease=0.3)
    origin = Origin()
    origin.go_on.clear()
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(cache.get_or_load, "slow", origin.load)
        assert origin.began.wait(10)
        with pytest.raises(LoaderError, match="raise max_loads"):
            cache.get_or_load("other", lambda: 1)
        origin.go_on.set()
        assert slow.result(10) == "loaded"


def test_a_loader_does_not_wait_for_a_load_that_waits_for_its_own_place(make_cache: MakeCache) -> None:
    cache = make_cache(max_loads=1, max_load=10)
    outer, go_on = threading.Event(), threading.Event()

    def load() -> Any:
        outer.set()
        go_on.wait(10)
        return cache.get_or_load("shared", lambda: "in its place")

    with ThreadPoolExecutor(2) as pool:
        nested = pool.submit(cache.get_or_load, "outer", load)
        assert outer.wait(10)
        queued = pool.submit(cache.get_or_load, "shared", lambda: "in its turn")
        wait_until(lambda: (None, "shared") in flights(cache).leased)  # it leads, and is to wait for a place
        began = time.monotonic()
        go_on.set()
        assert nested.result(20) == "in its place"
        assert queued.result(20) == "in its turn"
        assert time.monotonic() - began < 5


def test_without_the_server_who_waits_for_a_turn_is_joined_by_others(how: How) -> None:
    url = f"redis://127.0.0.1:{free_port()}"
    cache = how(CacheConfig(backend="redis", redis_url=url, breaker_failures=1, max_loads=1))
    assert cache.get("k") is None
    busy, hot = Origin(), Origin()
    busy.go_on.clear()
    with ThreadPoolExecutor(11) as pool:
        slow = pool.submit(cache.get_or_load, "slow", busy.load)
        assert busy.began.wait(10)
        waiting = []
        for _ in range(10):
            waiting.append(pool.submit(cache.get_or_load, "hot", hot.load))
            time.sleep(0.03)  # longer than callers are gathered while an earlier load is under way
        busy.go_on.set()
        assert [slow.result(10), *(each.result(10) for each in waiting)] == ["loaded"] * 11
    assert hot.calls <= 2, "one for all, and one for who came late"
