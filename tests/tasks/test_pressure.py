"""Memory pressure as the fleet sees it: what a look tells, what follows from it, and plans that wait."""

import threading
import time

import pytest

from stoker.cache import CacheMonitor
from stoker.cache.quotas import Quota, Quotas
from stoker.config import Settings, open_cache
from stoker.tasks import configure, plan_changes, pressure, runtime, send
from stoker.tasks.base import MAX_STARTS
from stoker.tasks.pressure import Gate, look, point_of
from stoker.tasks.pressure_store import MOST_POINTS, Point
from stoker.tasks.tick import start_due
from tests.tasks.planning import GIVEN, make_due, run
from tests.tasks.pressing import LIMIT, used

LOW, HIGH = 0.8, 0.9


def at_share(monkeypatch: pytest.MonkeyPatch, *shares: float) -> None:
    """What the next looks see; the last of them for good."""
    left = list(shares)
    monkeypatch.setattr(CacheMonitor, "get_node", lambda _: used(left.pop(0) if len(left) > 1 else left[0]))


def evictions(here: runtime.Runtime) -> int:
    return sum(job.kind == "evict" for job in here.jobs.recent(10))


def test_a_look_tells_how_fast_memory_rises_and_when_it_will_be_full() -> None:
    first = point_of(used(0.5), 100.0, None, LOW, HIGH)
    second = point_of(used(0.6, evicted=20), 110.0, first, LOW, HIGH)
    assert (first.slope, first.full_in()) == (0.0, None)
    assert second.slope == pytest.approx(0.01 * LIMIT)
    assert second.full_in() == pytest.approx(40)
    assert second.full_in(HIGH) == pytest.approx(30)
    assert second.evicting == 2
    assert point_of(used(0.7), 110.05, second, LOW, HIGH).slope == second.slope  # too soon to tell


def test_pressure_begins_at_the_high_mark_and_ends_at_the_low_one() -> None:
    point, seen = None, []
    for second, share in enumerate([0.85, 0.91, 0.85, 0.79, 0.85]):
        point = point_of(used(share), float(second), point, LOW, HIGH)
        seen.append(point.pressed)
    assert seen == [False, True, True, False, False]


def test_an_eviction_is_asked_for_before_memory_is_short(
    here: runtime.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_share(monkeypatch, 0.3, 0.31)
    look(here)
    assert evictions(here) == 0
    before = here.pressure.last()
    assert before is not None
    here.pressure.add(
        Point(**{**{f: getattr(before, f) for f in Point.__struct_fields__}, "at": before.at - 1}), None
    )
    at_share(monkeypatch, 0.45)  # 14 points a second: the high mark is three seconds away
    look(here)
    assert evictions(here) == 1
    look(here)  # joins it
    assert evictions(here) == 1


def test_where_nobody_evicts_by_the_clock_none_is_asked_for(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(settings.model_copy(update={"beat": settings.beat.model_copy(update={"evict_every": None})}))
    here = runtime.current()
    at_share(monkeypatch, 0.95)
    assert look(here).pressed
    assert evictions(here) == 0
    here.close()


def test_looks_are_kept_for_an_hour_and_what_cannot_be_read_is_left_out(here: runtime.Runtime) -> None:
    look(here)
    point = here.pressure.last()
    assert point is not None
    for _ in range(MOST_POINTS + 5):
        here.pressure.add(point, None)
    here.pressure._client.lset(here.pressure._points, 3, "{")
    assert len(here.pressure.points()) == MOST_POINTS - 1


def test_a_look_tells_whose_the_entries_are_and_how_they_are_read(here: runtime.Runtime) -> None:
    with open_cache(here.settings) as app:
        app.set_many({f"user:{n}": "x" * 500 for n in range(50)}, "acme")
        app.get("user:1", "acme")
    look(here)
    composition = here.pressure.composition()
    assert composition is not None
    [acme] = [row for row in composition.tenants if row.name == "acme"]
    assert acme.entries > 0
    assert acme.hits == 1
    assert "user" in {row.name for row in composition.families}


def test_quotas_are_changed_at_run_time_and_reach_every_process(here: runtime.Runtime) -> None:
    here.pressure.set_quota("acme", Quota(hard=10_000))
    here.pressure.set_quota("a:b%", Quota(soft=0.5))
    here.pressure.set_quota(None, Quota(soft=0.2))
    assert here.pressure.quotas() == Quotas(
        Quota(soft=0.2), {"acme": Quota(hard=10_000), "a:b%": Quota(soft=0.5)}
    )
    with open_cache(here.settings) as app, open_cache(here.settings) as other:
        app.set_many({f"k{n}": "x" * 1000 for n in range(50)}, "acme")
        assert look(here).full == ("acme",)
        assert evictions(here) == 1
        assert other.get_or_load("new", lambda: 5, "acme") == 5  # the caller has its value
        assert other.get("new", "acme") is None
        assert other.set("k1", 2, "acme") is False
        assert other.get("k1", "acme") is None  # the old value is not true any more
        assert other.set("k1", 2, "globex") is True
        assert other.stats().over_quota == 2
        here.pressure.drop_quota("acme")
        assert look(here).full == ()
        other._core.backend._refusals._due = 0.0  # type: ignore[attr-defined]
        assert other.set("k1", 2, "acme") is True


def test_who_is_full_may_store_again_when_he_is_well_below_his_quota(
    here: runtime.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_cache(here.settings) as app:
        app.set_many({f"k{n}": "x" * 1000 for n in range(100)}, "acme")
        makeup = CacheMonitor(app).get_makeup()
    # each look would take a sample of its own, and what else the server holds makes them differ
    monkeypatch.setattr(CacheMonitor, "get_makeup", lambda *_: makeup)
    size = makeup.tenants["acme"].bytes
    seen = []
    for quota in (size / 0.95, size / 1.05, size / 0.95, size / 0.85, size / 0.95):
        here.pressure.set_quota("acme", Quota(hard=round(quota)))
        seen.append(bool(look(here).full))
    assert seen == [False, True, True, False, False]


def test_due_plans_wait_for_the_low_mark(here: runtime.Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    plan_changes.add(here.plans, "a", GIVEN)
    make_due(here.plans)
    at_share(monkeypatch, 0.95, 0.85, 0.5)
    look(here)
    assert start_due(here) == []
    look(here)
    assert start_due(here) == []
    look(here)
    assert start_due(here) == ["a"]


def test_plans_go_on_where_the_settings_say_so(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(
        settings.model_copy(update={"job": settings.job.model_copy(update={"warm_under_pressure": True})})
    )
    here = runtime.current()
    plan_changes.add(here.plans, "a", GIVEN)
    make_due(here.plans)
    at_share(monkeypatch, 0.95)
    look(here)
    assert start_due(here) == ["a"]
    assert not Gate(here).is_shut()
    here.close()


def test_a_plan_that_runs_gives_its_place_back_until_there_is_memory(
    here: runtime.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_changes.add(here.plans, "a", GIVEN)
    at_share(monkeypatch, 0.95)
    look(here)
    job = send.warm_plan("a")
    for _ in range(MAX_STARTS + 1):  # it was not killed, so it is not given up
        assert run(job.id) == "IGNORED"
    status = job.status()
    assert (status.state, status.done) == ("running", 0)
    assert status.error == "it waits until memory is below the low mark"
    at_share(monkeypatch, 0.85, 0.5)
    assert run(job.id) == "IGNORED"
    assert run(job.id) == "SUCCESS"  # though nobody has looked but the plan itself
    assert job.status().error == ""


def test_a_plan_is_stopped_between_its_batches(
    here: runtime.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(here)
    assert not gate.is_shut()
    at_share(monkeypatch, 0.95)
    look(here)
    gate._looked = time.monotonic()
    assert not gate.is_shut()  # it looks once a second
    gate._looked -= pressure.PAUSE_S
    assert gate.is_shut()


def test_a_plan_looks_itself_where_nobody_does(
    here: runtime.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_share(monkeypatch, 0.5, 0.95)
    look(here)
    assert not Gate(here).is_shut()
    every = here.settings.beat.watch_every
    assert every is not None
    later = time.time() + 3 * every
    monkeypatch.setattr(time, "time", lambda: later)
    assert Gate(here).is_shut()


def test_what_an_old_look_said_does_not_hold(here: runtime.Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    at_share(monkeypatch, 0.95)
    look(here)
    assert pressure.pressed(here)
    later = time.time() + pressure.kept_s(here) + 1
    monkeypatch.setattr(time, "time", lambda: later)
    assert not pressure.pressed(here)


def test_two_who_look_at_once_do_no_harm(here: runtime.Runtime) -> None:
    threads = [threading.Thread(target=look, args=(here,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(here.pressure.points()) == 4
