"""What can be a warm plan, and what a run of it warms."""

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import redis

from stoker.cache import Cache, CacheMonitor
from stoker.cache import keys as stored
from stoker.config import InvalidSettings, Settings, open_cache
from stoker.tasks import PlanError, configure, names, plan_changes, plans, runtime, send, warm_plan
from stoker.tasks.job import Claim
from stoker.tasks.plan_tenants import tenants_of_run
from stoker.tasks.plans import PlanKeys
from stoker.tasks.tick import run_now, start_due
from stoker.tasks.warm import _steps
from tests.tasks.planning import (
    GIVEN,
    breaks_off,
    is_asynchronous,
    plan,
    run,
    takes_arguments,
    yields_keys,
    yields_nothing,
    yields_rubbish,
)


@pytest.fixture
def cache(settings: Settings) -> Iterator[Cache]:
    with open_cache(settings) as opened:
        yield opened


def read_for(cache: Cache, *tenants: str) -> None:
    """Let the fleet count a read for these tenants."""
    for tenant in tenants:
        cache.get("planned:0", tenant)
    CacheMonitor(cache).tenants()


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
        ({"tenants": "acme"}, "give a list of tenants, or 'all' without a list"),
        ({"tenants": 7}, "give a list of tenants"),
        ({"rate": 0}, "rate=0: Input should be greater than or equal to 0.01"),
        ({"rate": float("nan")}, "rate=nan: Input should be a finite number"),
        ({"rate": "fast"}, "rate='fast': Input should be a valid number"),
        ({"concurrency": 1.5}, "concurrency=1.5: Input should be a valid integer"),
        ({"concurrency": True}, "concurrency=True: Input should be a valid integer"),
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
        (lambda: ["planned:1"], "no worker could import .*it is a lambda"),
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
    with pytest.raises(
        PlanError, match=r"planning:yields_keys and .*:yields_nothing have this name; rename one"
    ):
        warm_plan("a")(yields_nothing)
    with pytest.raises(PlanError, match=r"it is in STOKER_WARM_PLANS and in .*:yields_keys; rename one"):
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
        (
            '{"a": {"template": "p:{id}", "params": {"id": [1], "x": [2]}}}',
            "x is no field of the template (id)",
        ),
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


def test_a_plan_in_code_warms_what_it_yields_for_each_of_its_tenants(
    here: runtime.Runtime, cache: Cache
) -> None:
    warm_plan("a", tenants=["acme", "globex"])(yields_keys)
    job = send.warm_plan("a")
    assert run(job.id) == "SUCCESS"
    assert job.status().report["written"] == 11
    assert [cache.get("planned:4", tenant) for tenant in ("acme", "globex", "umbrella", None)] == [
        4,
        4,
        None,
        None,
    ]
    assert cache.get("planned:1", "umbrella") == 1
    assert plan(here.plans).source == "code"


@pytest.mark.parametrize("source", ["code", "operator"])
def test_a_plan_for_all_tenants_warms_those_that_were_read_for_when_its_run_began(
    here: runtime.Runtime, cache: Cache, source: str
) -> None:
    read_for(cache, "globex", "acme")
    if source == "code":
        warm_plan("a", tenants="all")(yields_keys)
    else:
        plan_changes.add(here.plans, "a", {"keys": ["planned:1"], "tenants": "all"})
    job = send.warm_plan("a")
    assert run(job.id) == "SUCCESS"
    assert job.status().report["written"] == (11 if source == "code" else 2)
    assert [cache.get("planned:1", tenant) for tenant in ("acme", "globex", None)] == [1, 1, None]


def test_a_run_that_goes_on_keeps_the_tenants_it_began_with(here: runtime.Runtime, cache: Cache) -> None:
    def keys(*, begins: bool) -> PlanKeys:
        tenants = partial(tenants_of_run, here, "a", begins=begins)
        return plans.keys_of("a", here.plans.read().plans, tenants)

    plan_changes.add(here.plans, "a", {"keys": ["planned:1"], "tenants": "all"})
    read_for(cache, "globex", "acme")
    began = keys(begins=True)
    read_for(cache, "another")
    went_on = keys(begins=False)
    assert list(began.keys) == list(went_on.keys) == [("acme", "planned:1"), ("globex", "planned:1")]
    assert began.version == went_on.version
    # The next run looks again, and so does one whose list was lost: what it had counted means nothing then
    with redis.Redis.from_url(here.settings.state()) as client:
        client.delete(stored.plan_tenants(here.settings.namespace, "a"))
    assert keys(begins=False).version == keys(begins=True).version != began.version


@pytest.mark.usefixtures("here")
def test_a_plan_for_all_tenants_fails_where_nobody_has_read_for_any() -> None:
    warm_plan("a", tenants="all")(yields_keys)
    job = send.warm_plan("a")
    run(job.id)
    assert "nobody has read for any tenant yet; name them" in job.status().error


def test_limits_that_are_changed_under_a_run_do_not_begin_it_anew(here: runtime.Runtime) -> None:
    warm_plan("a", rate=500, concurrency=2)(yields_keys)
    start_due(here)
    before = plans.keys_of("a", here.plans.read().plans, tuple)
    plan_changes.change(here.plans, "a", {"rate": 50.0}, unlimited=True)
    after = plans.keys_of("a", here.plans.read().plans, tuple)
    assert (before.rate, before.concurrency) == (500, 2)
    assert (after.rate, after.concurrency) == (50, None)
    assert before.version == after.version


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
    assert (
        "this worker has not imported tests.tasks.planning:yields_keys; name its module" in job.status().error
    )


@pytest.mark.parametrize(
    ("change", "asked"),
    [({"keys": [f"planned:{n}" for n in range(500, 503)]}, 3), ({"rate": 10_000.0, "priority": 1}, 400)],
)
def test_a_plan_whose_keys_were_changed_under_a_run_is_begun_anew(
    here: runtime.Runtime, cache: Cache, change: dict[str, Any], asked: int
) -> None:
    # Given a run that was stopped on its way
    plan_changes.add(here.plans, "a", {"keys": [f"planned:{n}" for n in range(20, 420)]})
    job = send.warm_plan("a")
    claim = here.jobs.claim(job.id)
    assert isinstance(claim, Claim)
    with closing(_steps(cache, names.Warm(plan="a"), claim, 2)) as steps:
        begun = next(step for step in steps if step.done)
    assert begun.done < 400
    here.jobs.release(claim)
    # When the plan is changed meanwhile
    plan_changes.change(here.plans, "a", change)
    # Then the keys are counted from the first one on only if it has others
    assert run(job.id) == "SUCCESS"
    assert job.status().report["asked"] == asked
    assert job.status().report["fresh"] == 0


def test_how_many_keys_a_plan_in_code_had_last_time_is_what_the_next_run_expects(
    here: runtime.Runtime, cache: Cache
) -> None:
    warm_plan("a")(yields_keys)
    start_due(here)
    assert run(run_now(here, "a")) == "SUCCESS"
    start_due(here)
    record = plan(here.plans)
    assert (record.outcome, record.keys) == ("succeeded", 6)
    claim = here.jobs.claim(send.warm_plan("a").id)
    assert isinstance(claim, Claim)
    first, *_, last = list(_steps(cache, names.Warm(plan="a"), claim, 2))
    assert (first.total, last.done, last.total) == (6, 6, 6)
