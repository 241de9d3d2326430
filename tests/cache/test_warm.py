"""Warming: what is written, what is skipped, what is reported, where it resumes."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from stoker.cache import Cache, CacheConfig, LoadKey, warm_slice
from stoker.cache.budget import Limit
from stoker.cache.errors import ConfigError
from stoker.cache.loaders import Loader, Registry
from stoker.cache.work import LocalWork


class Source:
    """Where the loaders of these tests get their values, and who can misbehave."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.during: Callable[[], object] = lambda: None

    def many(self, keys: list[LoadKey]) -> dict[str, Any]:
        self.calls.append([key.key for key in keys])
        self.during()
        return {key.key: [key.tenant_id, key.args["n"]] for key in keys if key.args["n"] != "none"}

    def one(self, n: str) -> Any:
        if n == "bad":
            raise RuntimeError("no such row")
        return object() if n == "odd" else n


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def registry(source: Source) -> Registry:
    registry = Registry()

    def items(keys: list[LoadKey]) -> dict[str, Any]:
        return source.many(keys)

    def row(n: str) -> Any:
        return source.one(n)

    registry.add(Loader("item:{n}", items, many=True, ttl=60, tags=["items"]))
    registry.add(Loader("row:{n}", row))
    return registry


@pytest.fixture
def lease() -> float:
    """Seconds: so many that none ends because this machine is busy."""
    return 60.0


@pytest.fixture(params=["memory", "redis"])
def cache(
    request: pytest.FixtureRequest, registry: Registry, cache_server: str, namespace: str, lease: float
) -> Any:
    config = CacheConfig(
        backend=request.param,
        redis_url=cache_server,
        namespace=namespace,
        lease=lease,
        max_load=60,
        max_size=10_000,
    )
    with Cache(config, registry=registry) as opened:
        yield opened


def test_keys_are_loaded_in_batches_and_stored(cache: Cache, source: Source) -> None:
    report = cache.warm([f"item:{i}" for i in range(1200)], "acme")
    assert (report.asked, report.written, report.failed) == (1200, 1200, 0)
    assert report.checked == report.readable > 0
    assert sorted(len(call) for call in source.calls) == [200, 500, 500]
    assert cache.get("item:7", "acme") == ["acme", "7"]
    cache.invalidate_tags(["items"], "acme")
    assert cache.get("item:7", "acme") is None


def test_keys_may_come_by_tenant(cache: Cache) -> None:
    report = cache.warm({"acme": ["item:1", "item:2"], "globex": ["item:1"]})
    assert report.written == 3
    assert cache.get("item:1", "globex") == ["globex", "1"]


def test_what_is_fresh_is_not_loaded_again(cache: Cache, source: Source) -> None:
    cache.set("item:1", "newer")
    report = cache.warm(["item:1", "item:2"])
    assert (report.fresh, report.written) == (1, 1)
    assert source.calls == [["item:2"]]
    assert cache.get("item:1") == "newer"


def test_one_bad_key_does_not_hold_the_rest(cache: Cache) -> None:
    encodes = cache.backend == "redis"  # the memory backend keeps any object
    report = cache.warm(["row:1", "row:bad", "row:odd", "item:none", "nobody:1", "row:2"])
    assert (report.asked, report.missing) == (6, 1)
    assert (report.written, report.failed) == ((2, 3) if encodes else (3, 2))
    messages = dict(report.errors)
    assert messages["row:bad"] == "RuntimeError: no such row"
    assert ("cannot be encoded" in messages.get("row:odd", "")) is encodes
    assert messages["nobody:1"] == "no loader is registered for it"
    if encodes:  # nobody waits for a lease left behind
        assert cache.get_or_load("row:odd", lambda: "fixed") == "fixed"


def test_what_is_invalidated_under_the_load_is_loaded_again(cache: Cache, source: Source) -> None:
    source.during = lambda: cache.invalidate_pattern("item:*") if len(source.calls) == 1 else None
    report = cache.warm(["item:1", "item:2"])
    assert (report.written, report.refused) == (2, 0)
    assert len(source.calls) == 2
    assert cache.get("item:1") == [None, "1"]


def test_what_is_invalidated_under_every_load_is_refused(cache: Cache, source: Source) -> None:
    source.during = lambda: cache.invalidate_tags(["items"])
    report = cache.warm(["item:1"])
    assert (report.written, report.refused) == (0, 1)
    assert len(source.calls) == 2  # the origin is not asked over and over
    assert cache.get("item:1") is None


def test_a_key_that_another_loads_is_waited_for_where_loads_are_slow(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_slice, "QUICK_S", 0)
    loading, go_on = threading.Event(), threading.Event()

    def slow() -> str:
        loading.set()
        go_on.wait(10)
        return "theirs"

    reader = threading.Thread(target=cache.get_or_load, args=("item:1", slow))
    reader.start()
    loading.wait(10)
    steps = cache.warm_steps(["item:0", "item:1", "item:2"], batch=1, lanes=1)
    assert next(step for step in steps if step.done == 2).report.written == 2
    go_on.set()
    reader.join()
    *_, last = steps
    assert (last.report.fresh, last.report.written) == (1, 2)
    assert cache.get("item:1") == "theirs"


def test_it_goes_on_where_its_work_stands(cache: Cache, source: Source) -> None:
    keys = [f"item:{i}" for i in range(1000)]
    work = LocalWork()
    steps = cache.warm_steps(keys, batch=10, lanes=1, work=work)
    step = next(steps)
    steps.close()
    assert step.done < 1000
    *_, last = cache.warm_steps(keys, batch=10, work=work)
    assert (last.report.asked, last.report.written) == (1000, 1000)
    assert len(source.calls) == 100
    assert (last.done, last.total) == (1000, 1000)


def test_several_help_with_one_warm(cache: Cache, source: Source) -> None:
    work = LocalWork()
    keys = [f"item:{i}" for i in range(1000)]
    helper = threading.Thread(target=lambda: list(cache.help_warm_steps(work, lanes=2)))
    helper.start()
    *_, last = cache.warm_steps(keys, batch=10, lanes=2, work=work)
    helper.join(10)
    assert not helper.is_alive()
    assert (last.report.asked, last.report.written) == (1000, 1000)
    assert len(source.calls) == 100


@pytest.mark.parametrize("lease", [0.5])
def test_leases_that_a_killed_warmer_left_are_outlived(cache: Cache) -> None:
    left = cache._run(cache._core.backend.acquire([(None, "item:1")]))
    if cache.backend == "memory":
        cache._run(cache._core.backend.release([lease for lease, _ in left]))  # type: ignore[misc]
    report = cache.warm(["item:1", "item:2"])
    assert report.written == 2


def test_a_stream_of_unknown_length_has_no_total(cache: Cache) -> None:
    *early, last = cache.warm_steps((f"item:{i}" for i in range(300)), batch=100)
    assert {step.total for step in early} <= {None}
    assert (last.total, last.report.written) == (300, 300)


def test_a_key_whose_loader_raises_is_loaded_again_twice(cache: Cache) -> None:
    tries: dict[str, int] = {}

    def unsteady(n: str) -> str:
        tries[n] = tries.get(n, 0) + 1
        if tries[n] <= int(n):
            raise RuntimeError(f"{n} is not ready")
        return n

    cache._core.registry.add(Loader("unsteady:{n}", unsteady))
    report = cache.warm([f"unsteady:{n}" for n in range(4)])
    assert (report.written, report.failed) == (3, 1)
    assert tries == {"0": 1, "1": 2, "2": 3, "3": 3}
    assert report.errors == (("unsteady:3", "RuntimeError: 3 is not ready"),)


def test_a_warm_stops_when_most_loads_fail_and_says_so(cache: Cache) -> None:
    calls: list[str] = []

    def fail(n: str) -> None:
        calls.append(n)
        raise RuntimeError("the origin is down")

    cache._core.registry.add(Loader("down:{n}", fail))
    report = cache.warm([f"down:{n}" for n in range(5000)], batch=100, lanes=1)
    assert len(calls) == 100
    assert report.stopped == "100 of 100 loads failed"
    assert (report.asked, report.failed) == (100, 100)
    assert report.errors == (("down:99", "RuntimeError: the origin is down"),)


def test_a_warm_that_had_stopped_does_not_go_on(cache: Cache) -> None:
    def fail(n: str) -> None:
        raise RuntimeError(n)

    cache._core.registry.add(Loader("down:{n}", fail))
    keys = [f"down:{n}" for n in range(500)]
    work = LocalWork()
    list(cache.warm_steps(keys, batch=100, lanes=1, work=work))
    *_, again = cache.warm_steps(keys, batch=100, lanes=1, work=work)
    assert (again.report.asked, again.report.stopped) == (100, "100 of 100 loads failed")


def test_what_is_warmed_together_does_not_expire_together(cache: Cache) -> None:
    cache.warm([f"item:{n}" for n in range(50)])
    left = [cache.explain(f"item:{n}")["ttl_ms"] for n in range(50)]
    assert max(left) - min(left) > 1000  # of 60 s, by a tenth


def paced(n: str) -> str:
    return n


class Counted:
    """A budget that lets every second unit wait, and remembers what it was told."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.told: list[tuple[int, int, int]] = []

    def ask(self, limit: Limit, unit: str, keys: int) -> float:
        assert limit == ("loader:paced:{n}", 40, None)
        assert unit
        self.asked.append(keys)
        return 0.01 if len(self.asked) % 2 else 0.0

    def done(self, limit: Limit, unit: str, *, asked: int, loaded: int, failed: int, seconds: float) -> float:
        assert limit.rate == 40
        assert unit
        assert seconds >= 0
        self.told.append((asked, loaded, failed))
        return 0.0


def test_a_budget_is_asked_before_each_batch_and_told_how_it_went(cache: Cache) -> None:
    def load(n: str) -> str:
        if n == "bad":
            raise RuntimeError
        return n

    cache._core.registry.add(Loader("paced:{n}", load, rate=40))
    cache.set("paced:0", "fresh")
    budget = Counted()
    keys = [f"paced:{n}" for n in (*range(14), "bad")]
    *_, last = cache.warm_steps(keys, budget=budget, lanes=1)
    assert (last.report.written, last.report.fresh, last.report.failed) == (13, 1, 1)
    assert budget.told[:2] == [(10, 9, 0), (5, 4, 1)], "a quarter of a second's keys at once"
    assert budget.told[2:] == [(1, 0, 1)] * 2
    assert len(budget.asked) == 2 * len(budget.told)


def test_the_limits_of_a_warm_count_besides_those_of_its_loaders(cache: Cache) -> None:
    class Both(Counted):
        def __init__(self) -> None:
            super().__init__()
            self.owners: list[tuple[str, int]] = []

        def ask(self, limit: Limit, unit: str, keys: int) -> float:  # noqa: ARG002
            self.owners.append((limit.owner, keys))
            return 0.0

        def done(self, limit: Limit, unit: str, **told: float) -> float:  # noqa: ARG002
            assert told["asked"] == told["loaded"]
            return 0.0

    budget = Both()
    limits = [Limit("plan:nightly", rate=20)]
    list(cache.warm_steps([f"item:{n}" for n in range(10)], budget=budget, limits=limits))
    assert sorted(budget.owners) == [("loader:item:{n}", 5)] * 2 + [("plan:nightly", 5)] * 2


def test_within_a_rate_lanes_take_turns_so_that_pages_come_evenly(cache: Cache) -> None:
    began = time.monotonic()
    limits = [Limit("plan:nightly", rate=2000)]
    *_, last = cache.warm_steps([f"item:{n}" for n in range(640)], batch=160, lanes=4, limits=limits)
    assert last.report.written == 640
    # 20 round trips store, 8 ms after each other, besides those that begin; four lanes by themselves need a quarter.
    assert time.monotonic() - began > 0.15


def test_a_warm_that_waits_for_its_budget_ends_when_it_is_told_to(cache: Cache) -> None:
    class Never(Counted):
        def ask(self, limit: Limit, unit: str, keys: int) -> float:  # noqa: ARG002
            return 3600.0

    steps = cache.warm_steps(["item:1"], budget=Never())
    assert next(steps).done == 0
    steps.close()
    assert cache.warm(["item:1"]).written == 1


def test_slow_loads_of_single_keys_outlast_a_lease_together(cache: Cache) -> None:
    def slow(n: str) -> str:
        time.sleep(0.025)
        return n

    cache._core.registry.add(Loader("slow:{n}", slow))
    short = replace(cache.config, lease=0.9, max_load=1.2)
    with Cache(short, registry=cache._core.registry) as impatient:
        report = impatient.warm([f"slow:{n}" for n in range(60)], lanes=1)
    assert (report.written, report.refused) == (60, 0)


def test_what_is_fresh_is_not_held_while_the_rest_is_loaded(cache: Cache, source: Source) -> None:
    def look() -> None:
        cache.delete("item:1")
        assert cache.get_or_load("item:1", lambda: "theirs") == "theirs"

    source.during = look
    cache.set("item:1", "fresh")
    assert cache.warm(["item:1", "item:2"]).written == 1
    assert cache.get("item:1") == "theirs"


def test_a_loader_may_warm_other_keys(cache: Cache) -> None:
    inner = Loader("inner:{n}", paced)

    def outer(n: str) -> int:
        return one.warm([f"inner:{n}"]).written

    cache._core.registry.add(inner)
    cache._core.registry.add(Loader("outer:{n}", outer))
    with Cache(replace(cache.config, max_loads=1), registry=cache._core.registry) as one:
        assert one.warm(["outer:1"]).written == 1
        assert one.get("outer:1") == 1


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"lanes": 0}])
def test_a_warm_that_could_do_nothing_is_refused(cache: Cache, wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="1 or more"):
        cache.warm(["item:1"], **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("lease", [0.5])
def test_keys_that_others_load_are_asked_for_in_small_batches_too(cache: Cache) -> None:
    cache._core.registry.add(Loader("paced:{n}", paced, rate=40))
    keys = [f"paced:{n}" for n in range(25)]
    cache._run(cache._core.backend.acquire([(None, key) for key in keys]))  # by somebody who was killed
    budget = Counted()
    list(cache.warm_steps(keys, budget=budget))
    assert max(budget.asked) == 10
