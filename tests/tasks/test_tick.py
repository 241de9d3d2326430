"""When a warm plan is due, who starts its runs, and how they are accounted for."""

import threading
from datetime import UTC, datetime

import pytest

from stoker.config import Settings, Timing
from stoker.tasks import JobHandle, configure, plan_changes, runtime, send, warm_plan
from stoker.tasks.job import ANY
from stoker.tasks.tick import STARTUP_GUARD_MS, TAKEN_MS, run_now, start_due, start_up
from tests.tasks.planning import (
    CLOSED,
    GIVEN,
    make_due,
    plan,
    yields_keys,
)


def at(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("cron", "after", "due"),
    [
        ("0 3 * * *", "2026-03-01 02:59:59.999", "2026-03-01 03:00"),
        ("0 3 * * *", "2026-03-01 03:00", "2026-03-02 03:00"),
        ("*/15 * * * *", "2026-12-31 23:50", "2027-01-01 00:00"),
        ("0 0 29 2 *", "2026-03-01 00:00", "2028-02-29 00:00"),
        ("30 6 * * mon-fri", "2026-03-06 07:00", "2026-03-09 06:30"),
        ("0 0 13 * fri", "2026-03-14 00:00", "2026-11-13 00:00"),
    ],
)
def test_cron_is_read_in_utc_and_all_five_fields_must_fit(cron: str, after: str, due: str) -> None:
    assert Timing(cron=cron).first(at(after)) == at(due)


def test_an_interval_counts_from_the_last_due_time_and_so_does_not_drift() -> None:
    timing = Timing(every="10s")  # type: ignore[arg-type]
    assert timing.after(1000, 1000) == (11_000, 0)
    assert timing.after(1000, 10_999) == (11_000, 0)
    assert timing.after(1000, 11_000) == (21_000, 1)
    assert timing.after(1000, 55_000) == (61_000, 5)


def test_due_times_of_cron_that_were_passed_over_are_counted() -> None:
    timing = Timing(cron="0 * * * *")
    due, passed = timing.after(at("2026-03-01 01:00"), at("2026-03-01 03:30"))
    assert (due, passed) == (at("2026-03-01 04:00"), 2)


def test_a_due_plan_is_started_once_by_several_ticks_at_once(
    here: runtime.Runtime, settings: Settings
) -> None:
    plan_changes.add(here.plans, "a", GIVEN)
    make_due(here.plans)
    started: list[str] = []
    barrier = threading.Barrier(4)

    def tick() -> None:
        other = runtime.Runtime(settings)
        barrier.wait()
        started.extend(start_due(other))
        other.close()

    threads = [threading.Thread(target=tick) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert started == ["a"]
    now = plan(here.plans)
    assert (now.missed, now.taken_ms) == (0, None)
    assert [job.id for job in here.jobs.recent(9)] == [now.job]


def test_what_is_due_together_starts_in_the_order_of_priority(here: runtime.Runtime) -> None:
    for name, priority in (("low", 1), ("high", 9), ("middle", 5)):
        plan_changes.add(here.plans, name, {**GIVEN, "priority": priority})
        make_due(here.plans, name)
    assert start_due(here) == ["high", "middle", "low"]


def test_a_paused_plan_is_not_started_and_what_it_left_out_is_not_missed(here: runtime.Runtime) -> None:
    plan_changes.add(here.plans, "a", GIVEN)
    plan_changes.pause(here.plans, "a")
    make_due(here.plans, by_ms=5 * 3600_000)
    assert start_due(here) == []
    resumed = plan_changes.resume(here.plans, "a")
    assert start_due(here) == []
    assert resumed.missed == 0
    assert resumed.next_ms is not None


def test_a_plan_without_a_clock_runs_only_when_it_is_asked_for(here: runtime.Runtime) -> None:
    plan_changes.add(here.plans, "a", {"keys": ["planned:1"]})
    assert start_due(here) == []
    job_id = run_now(here, "a")
    assert plan(here.plans).job == job_id
    assert send.warm_plan("a") == JobHandle(job_id)


def test_a_run_that_is_still_going_is_joined_and_the_other_counted_as_missed(here: runtime.Runtime) -> None:
    plan_changes.add(here.plans, "a", GIVEN)
    make_due(here.plans)
    start_due(here)
    first = plan(here.plans).job
    make_due(here.plans)
    start_due(here)
    now = plan(here.plans)
    assert (now.job, now.missed) == (first, 1)
    assert now.missed_ms is not None


def test_due_times_while_nobody_ticked_are_missed_but_for_the_last(here: runtime.Runtime) -> None:
    plan_changes.add(here.plans, "a", GIVEN)
    make_due(here.plans, by_ms=3 * 3600_000 + 1)
    assert start_due(here) == ["a"]
    assert plan(here.plans).missed == 3


def test_a_run_that_somebody_took_and_never_sent_is_started_by_a_later_tick(here: runtime.Runtime) -> None:
    plan_changes.add(here.plans, "a", GIVEN)
    here.plans.update("a", lambda p, now_ms: p and p.with_(taken_ms=now_ms))
    assert start_due(here) == []
    here.plans.update("a", lambda p, now_ms: p and p.with_(taken_ms=now_ms - TAKEN_MS))
    assert start_due(here) == ["a"]
    assert plan(here.plans).job


def test_a_run_that_could_not_be_sent_says_so_and_is_tried_again(
    settings: Settings, broker_server: str
) -> None:
    configure(settings.model_copy(update={"broker_url": CLOSED, "state_url": broker_server}))
    here = runtime.current()
    plan_changes.add(here.plans, "a", GIVEN)
    make_due(here.plans)
    assert start_due(here) == []
    now = plan(here.plans)
    assert now.error.startswith("stoker.warm was not sent")
    assert now.taken_ms is not None
    here.close()


def test_plans_of_the_start_are_started_once_by_workers_that_start_together(here: runtime.Runtime) -> None:
    warm_plan("a", on_startup=True)(yields_keys)
    warm_plan("b", every="1h")(yields_keys)
    assert start_up(here) == ["a"]
    assert start_up(here) == []
    here.plans.update("a", lambda p, now_ms: p and p.with_(startup_ms=now_ms - STARTUP_GUARD_MS))
    assert start_up(here) == ["a"]
    assert len(here.jobs.recent(9)) == 1  # the run from before is not over


@pytest.mark.parametrize(
    ("state", "error"), [("succeeded", ""), ("failed", "no coal"), ("lost", "its job is not")]
)
def test_the_end_of_a_run_is_kept_after_its_job_is_forgotten(
    here: runtime.Runtime, state: str, error: str
) -> None:
    plan_changes.add(here.plans, "a", GIVEN)
    run_now(here, "a")
    if state == "lost":
        here.jobs.forget(plan(here.plans).job, "warm", {"plan": "a"})
    else:
        here.jobs.finish(plan(here.plans).job, state, ANY, {"error": error})  # type: ignore[arg-type]
    start_due(here)
    now = plan(here.plans)
    assert now.outcome == state
    assert now.error.startswith(error)
    assert now.ended_ms is not None
