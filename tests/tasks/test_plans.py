"""Warm plans: what can be one, when it is due, and who starts its runs. The tasks run in this process."""

import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from stoker import tasks
from stoker.cache import Cache, keys, loader
from stoker.config import InvalidSettings, Settings, Timing, open_cache
from stoker.tasks import JobHandle, PlanError, configure, plan_changes, plans, runtime, send, warm_plan
from stoker.tasks.job import ANY
from stoker.tasks.plan_record import PlanRecord
from stoker.tasks.plan_store import PlanStore
from stoker.tasks.tick import STARTUP_GUARD_MS, TAKEN_MS, run_now, start_due, start_up

GIVEN: dict[str, Any] = {"keys": ["planned:1"], "every": "1h"}
CLOSED = "redis://127.0.0.1:1/0"


@loader("planned:{number}")
def _load(number: int) -> int:
    if number == 13:
        raise ValueError("no coal")
    return number


def yields_keys() -> Iterator[str | tuple[str | None, str]]:
    yield from (f"planned:{number}" for number in range(5))
    yield "umbrella", "planned:1"


def yields_rubbish() -> Iterator[Any]:
    yield from ["planned:1", "", 7, ("acme", "planned:2", 3), ([], "planned:3"), "planned:4"]


def breaks_off() -> Iterator[str]:
    yield "planned:1"
    raise OSError("the database went away")


def yields_nothing() -> Iterable[str]:
    return ()


def takes_arguments(number: int) -> Iterator[str]:
    yield str(number)


async def is_asynchronous() -> None: ...


@pytest.fixture(autouse=True)
def _plans_of_one_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "_registered", {})


@pytest.fixture
def here(producer: Settings) -> runtime.Runtime:
    assert producer
    return runtime.current()


@pytest.fixture
def store(here: runtime.Runtime) -> PlanStore:
    return here.plans


@pytest.fixture
def cache(settings: Settings) -> Iterator[Cache]:
    with open_cache(settings) as opened:
        yield opened


def plan(store: PlanStore, name: str = "a") -> PlanRecord:
    return store.read().plans[name]


def make_due(store: PlanStore, name: str = "a", by_ms: int = 1) -> None:
    """Let its next due time be `by_ms` ago."""
    store.update(name, lambda record, now_ms: record and record.with_(next_ms=now_ms - by_ms))


def run(job_id: str) -> str:
    """Run a job's task here, as a worker would; returns Celery's state."""
    return str(tasks.warm.apply(kwargs={"job_id": job_id}, task_id=job_id).state)


def ended(here: runtime.Runtime, name: str = "a", state: Any = "succeeded") -> None:
    here.jobs.finish(plan(here.plans, name).job, state, ANY, {"error": "no coal" if state == "failed" else ""})


# What can be a plan


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"every": "15x"}, "every='15x': write a number and its unit, such as '30s', '15m'"),
        ({"every": "15"}, "every='15': write a number and its unit"),
        ({"every": "0s"}, "every='0s': must be from 1 second to 366 days"),
        ({"every": True}, "every=True: give text such as '15m', a timedelta, or seconds"),
        ({"every": timedelta(days=400)}, "must be from 1 second to 366 days"),
        ({"cron": "0 3 * *"}, "write five fields (minute hour day month weekday), such as '0 3 * * *'"),
        ({"cron": "0 25 * * *"}, "Invalid end range: 25 > 23"),
        ({"cron": "a b c d e"}, "cron='a b c d e': write five fields"),
        ({"cron": "0 0 30 2 *"}, "day_of_month '30' never occurs"),
        ({"every": "15m", "cron": "0 3 * * *"}, "give every or cron, not both"),
        ({"priority": 10}, "priority=10: Input should be less than or equal to 9"),
        ({"tenants": "acme"}, "give a list of tenants"),
        ({"tenants": [""]}, "tenant_id '': must not be empty"),
    ],
)
def test_wrong_arguments_of_a_plan_are_refused_with_the_reason(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(PlanError) as refused:
        warm_plan("nightly", **arguments)
    assert str(refused.value).startswith("plan 'nightly': ")
    assert told in str(refused.value)


@pytest.mark.parametrize("name", ["", "a b", "a:b", "x" * 65])
def test_wrong_names_of_plans_are_refused(name: str) -> None:
    with pytest.raises(PlanError, match="a plan's name is 1 to 64 of"):
        warm_plan(name)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda: [], "no worker could import .*it is a lambda"),
        (takes_arguments, "is called without arguments: missing a required argument: 'number'"),
        (is_asynchronous, "is no plain function"),
        ("planned:1", "is no plain function"),
    ],
)
def test_what_is_no_function_that_workers_can_import_and_call_is_refused(function: Any, told: str) -> None:
    with pytest.raises(PlanError, match=told):
        warm_plan("nightly")(function)


def test_two_plans_cannot_have_one_name_but_a_module_may_be_loaded_again() -> None:
    warm_plan("a")(yields_keys)
    warm_plan("a", every="1h")(yields_keys)
    with pytest.raises(PlanError, match="test_plans:yields_keys and .*:yields_nothing have this name; rename one"):
        warm_plan("a")(yields_nothing)
    with pytest.raises(PlanError, match="it is in STOKER_WARM_PLANS and in .*:yields_keys; rename one"):
        plans.known(Settings(warm_plans={"a": GIVEN}))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[", "is no valid JSON object"),
        ("[]", "must be an object of plans by name"),
        ('{"a": {}}', "plan 'a': give keys, or a template with params"),
        ('{"a": {"keys": ["x"], "evry": "1h"}}', "plan 'a': evry='1h': Extra inputs are not permitted"),
        ('{"a": {"keys": [""]}}', "plan 'a': keys.0: key '': must not be empty"),
        ('{"a": {"template": "p:{id}"}}', "plan 'a': give params for {id} of the template"),
        ('{"a": {"template": "p:{id}", "params": {"id": ["x:y"]}}}', "must not be empty or contain ':'"),
        ('{"a": {"template": "p:{id}", "params": {"id": [1], "x": [2]}}}', "x is no field of the template (id)"),
        ('{"a b": {"keys": ["x"]}}', "a plan's name is 1 to 64 of"),
    ],
)
def test_wrong_plans_in_settings_are_refused_with_plan_field_and_reason(
    text: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOKER_WARM_PLANS", text)
    with pytest.raises(InvalidSettings) as refused:
        Settings()
    assert str(refused.value).startswith("STOKER_WARM_PLANS=")
    assert told in str(refused.value)


def test_a_template_stands_for_every_combination_of_its_values() -> None:
    (found,) = Settings(
        warm_plans={"a": {"template": "p:{id}:{lang}", "params": {"lang": ["en", "de"], "id": [1, 2]}}}
    ).warm_plans
    assert list(found.names()) == ["p:1:en", "p:1:de", "p:2:en", "p:2:de"]
    assert found.count() == 4


# When it is due


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


# Who knows it


def test_plans_in_code_and_settings_are_known_once_whoever_seeds_them(settings: Settings) -> None:
    configure(settings.model_copy(update={"warm_plans": Settings(warm_plans={"b": GIVEN}).warm_plans}))
    warm_plan("a", cron="0 3 * * *", tenants=["acme"])(yields_keys)
    here = runtime.current()
    ours = plans.known(here.settings)
    threads = [threading.Thread(target=here.plans.seed, args=(ours,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first = here.plans.read()
    assert [(p.name, p.source) for p in first.plans.values()] == [("a", "code"), ("b", "settings")]
    assert first.plans["a"].given["function"].endswith("test_plans:yields_keys")
    assert first.plans["b"].next_ms is not None
    assert here.plans.seed(ours).plans == first.plans
    here.close()


def test_what_an_operator_changed_stays_when_the_code_changes(here: runtime.Runtime) -> None:
    warm_plan("a", every="1h", priority=3)(yields_keys)
    start_due(here)
    plan_changes.change(here.plans, "a", {"cron": "0 4 * * *"})
    plan_changes.pause(here.plans, "a")
    warm_plan("a", every="2h", priority=7)(yields_keys)
    start_due(here)
    now = plan(here.plans)
    assert (now.timing.cron, now.timing.every, now.timing.priority, now.paused) == ("0 4 * * *", None, 7, True)
    back = plan_changes.change(here.plans, "a", {}, as_defined=True)
    assert (back.changes, back.timing.every) == ({}, 7200)


def test_versions_of_the_code_that_take_turns_do_not_put_a_plan_off(here: runtime.Runtime) -> None:
    warm_plan("a", every="1h")(yields_keys)
    start_due(here)
    first = plan(here.plans).next_ms
    for every in ("2h", "1h", "2h"):
        warm_plan("a", every=every)(yields_keys)
        start_due(here)
        assert plan(here.plans).next_ms == first


def test_a_plan_in_code_takes_the_place_of_an_operator_s_of_that_name_which_stays_paused(
    here: runtime.Runtime,
) -> None:
    plan_changes.add(here.plans, "a", GIVEN)
    plan_changes.pause(here.plans, "a")
    warm_plan("a", every="2h")(yields_keys)
    start_due(here)
    now = plan(here.plans)
    assert (now.source, now.timing.every, now.paused) == ("code", 7200, True)


@pytest.mark.parametrize(
    ("act", "told"),
    [
        (lambda s: plan_changes.add(s, "a", GIVEN), "there is one already, of the code; change it instead"),
        (lambda s: plan_changes.add(s, "b", {"every": "1h"}), "give keys, or a template with params"),
        (lambda s: plan_changes.add(s, "b", {"keys": ["k"], "every": "x"}), "every='x': write a number"),
        (lambda s: plan_changes.add(s, "b c", GIVEN), "a plan's name is 1 to 64"),
        (lambda s: plan_changes.change(s, "b", {"every": "1h"}), "there is no such plan"),
        (lambda s: plan_changes.change(s, "a", {}), "say what to change"),
        (lambda s: plan_changes.change(s, "a", {"every": "x"}), "every='x': write a number"),
        (lambda s: plan_changes.change(s, "a", {"keys": ["k"]}), "are in the workers' code; only when it runs"),
        (lambda s: plan_changes.change(s, "a", {"every": "1h"}, on_demand=True), "on demand is without"),
        (lambda s: plan_changes.pause(s, "b"), "there is no such plan"),
        (lambda s: plan_changes.remove(s, "a"), "would bring it back; pause it instead"),
    ],
)
def test_wrong_changes_are_refused_and_change_nothing(
    here: runtime.Runtime, act: Callable[[PlanStore], object], told: str
) -> None:
    warm_plan("a", every="1h")(yields_keys)
    start_due(here)
    before = here.plans.read().plans
    with pytest.raises(PlanError) as refused:
        act(here.plans)
    assert told in str(refused.value)
    assert here.plans.read().plans == before


def test_an_operators_plan_is_his_to_change_and_to_remove(store: PlanStore) -> None:
    plan_changes.add(store, "a", {**GIVEN, "tenants": ["acme"]})
    plan_changes.change(store, "a", {"template": "planned:{n}", "params": {"n": ["1", "2"]}, "cron": "0 3 * * *"})
    now = plan(store)
    assert (now.source, now.timing.every, now.timing.cron) == ("operator", None, "0 3 * * *")
    found = plans.keys_of("a", {"a": now})
    assert list(found.keys) == [("acme", "planned:1"), ("acme", "planned:2")]
    plan_changes.remove(store, "a")
    assert store.read().plans == {}


def test_a_plan_that_no_worker_defines_any_more_can_be_removed(here: runtime.Runtime) -> None:
    warm_plan("a", every="1h")(yields_keys)
    start_due(here)
    here.plans.update("a", lambda p, now_ms: p and p.with_(seen_ms=now_ms - plan_changes.GONE_MS))
    plan_changes.remove(here.plans, "a")
    assert here.plans.read().plans == {}


def test_a_flushed_server_knows_the_code_s_plans_again_and_the_operators_losses_are_told(
    here: runtime.Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a plan in code that an operator paused, and one that he added
    warm_plan("a", every="1h")(yields_keys)
    start_due(here)
    plan_changes.pause(here.plans, "a")
    plan_changes.add(here.plans, "b", GIVEN)
    start_due(here)
    # When the server forgets everything
    with redis.Redis.from_url(here.settings.state()) as client:
        client.delete(keys.plans(here.settings.namespace))
    # Then the next tick makes the code's plan known, as the code has it, and reports the rest
    start_due(here)
    now = here.plans.read()
    assert [(p.name, p.paused) for p in now.plans.values()] == [("a", False)]
    assert now.lost == {"a": "paused", "b": "added"}
    assert "what operators did is lost: a (paused), b (added)" in caplog.text
    # once, until somebody has seen it
    caplog.clear()
    start_due(here)
    assert caplog.text == ""
    here.plans.forget_losses()
    assert here.plans.read().lost == {}


def test_a_damaged_record_is_named_and_seeded_anew(here: runtime.Runtime) -> None:
    warm_plan("a", every="1h")(yields_keys)
    with redis.Redis.from_url(here.settings.state()) as client:
        for name, text in (("a", "no JSON"), ("b", '{"name": "c", "source": "code", "given": {}}')):
            client.hset(keys.plans(here.settings.namespace), name, text)
    assert here.plans.read().damaged == ("a", "b")
    start_due(here)
    assert (list(here.plans.read().plans), here.plans.read().damaged) == (["a"], ("b",))
    plan_changes.remove(here.plans, "b")
    assert here.plans.read().damaged == ()


# Who starts it


def test_a_due_plan_is_started_once_by_several_ticks_at_once(here: runtime.Runtime, settings: Settings) -> None:
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


def test_a_run_that_could_not_be_sent_says_so_and_is_tried_again(settings: Settings, broker_server: str) -> None:
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


@pytest.mark.parametrize(("state", "error"), [("succeeded", ""), ("failed", "no coal"), ("lost", "its job is not")])
def test_the_end_of_a_run_is_kept_after_its_job_is_forgotten(
    here: runtime.Runtime, state: str, error: str
) -> None:
    plan_changes.add(here.plans, "a", GIVEN)
    run_now(here, "a")
    if state == "lost":
        here.jobs.forget(plan(here.plans).job, "warm", {"plan": "a"})
    else:
        ended(here, state=state)
    start_due(here)
    now = plan(here.plans)
    assert now.outcome == state
    assert now.error.startswith(error)
    assert now.ended_ms is not None


# What it warms


def test_a_plan_in_code_warms_what_it_yields_for_each_of_its_tenants(
    here: runtime.Runtime, cache: Cache
) -> None:
    warm_plan("a", tenants=["acme", "globex"])(yields_keys)
    job = send.warm_plan("a")
    assert run(job.id) == "SUCCESS"
    assert job.status().report["written"] == 11
    assert [cache.get("planned:4", tenant) for tenant in ("acme", "globex", "umbrella", None)] == [4, 4, None, None]
    assert cache.get("planned:1", "umbrella") == 1
    assert plan(here.plans).source == "code"


@pytest.mark.usefixtures("here")
def test_malformed_keys_fail_alone(cache: Cache) -> None:
    warm_plan("a")(yields_rubbish)
    job = send.warm_plan("a")
    assert run(job.id) == "SUCCESS"
    status = job.status()
    assert (status.report["asked"], status.report["written"], status.failed) == (6, 2, 4)
    assert cache.get("planned:4") == 4


def test_a_plan_in_settings_warms_its_template_and_knows_how_many_keys_it_has(settings: Settings) -> None:
    given = {"template": "planned:{n}", "params": {"n": list(range(20, 30))}, "tenants": ["acme", "globex"]}
    configure(settings.model_copy(update={"warm_plans": Settings(warm_plans={"a": given}).warm_plans}))
    job = send.warm_plan("a")
    assert run(job.id) == "SUCCESS"
    assert (job.status().total, job.status().report["written"]) == (20, 20)
    runtime.current().close()


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("function", "told"),
    [
        (yields_nothing, "there was no key to warm"),
        (breaks_off, "OSError: the database went away"),
    ],
)
def test_a_plan_that_fails_says_why(function: Any, told: str) -> None:
    warm_plan("a")(function)
    job = send.warm_plan("a")
    run(job.id)
    assert (job.status().state, job.status().error) == ("failed", told)


@pytest.mark.usefixtures("here")
def test_a_plan_that_does_not_exist_fails_and_names_the_nearest() -> None:
    warm_plan("nightly")(yields_keys)
    job = send.warm_plan("nihgtly")
    run(job.id)
    assert "plan 'nihgtly': there is no such plan; did you mean 'nightly'?" in job.status().error


def test_a_worker_that_has_not_imported_the_plan_s_module_says_so(
    here: runtime.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm_plan("a")(yields_keys)
    start_due(here)
    monkeypatch.setattr(plans, "_registered", {})
    job = send.warm_plan("a")
    run(job.id)
    assert "this worker has not imported tests.tasks.test_plans:yields_keys; name its module" in job.status().error


def test_a_plan_that_was_changed_under_a_run_is_begun_anew(here: runtime.Runtime) -> None:
    plan_changes.add(here.plans, "a", {"keys": [f"planned:{n}" for n in range(40, 50)]})
    job = send.warm_plan("a")
    old = plans.keys_of("a", here.plans.read().plans).version
    plan_changes.change(here.plans, "a", {"keys": [f"planned:{n}" for n in range(60, 63)]})
    claim = here.jobs.claim(job.id)
    cursor = {"at": 10, "again": [], "report": {}, "plan": old}
    here.jobs.progress(claim, {"cursor": cursor})  # type: ignore[arg-type]
    here.jobs.release(claim)  # type: ignore[arg-type]
    assert run(job.id) == "SUCCESS"
    assert job.status().report["written"] == 3
