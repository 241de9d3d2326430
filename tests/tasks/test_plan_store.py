"""Who knows of a warm plan, what an operator changes of it, and what a flush leaves."""

import threading
from collections.abc import Callable

import pytest
import redis

from stoker.cache import keys
from stoker.config import Settings
from stoker.tasks import PlanError, configure, plan_changes, plans, runtime, warm_plan
from stoker.tasks.plan_store import PlanStore
from stoker.tasks.tick import start_due
from tests.tasks.planning import (
    GIVEN,
    plan,
    yields_keys,
)


@pytest.fixture
def store(here: runtime.Runtime) -> PlanStore:
    return here.plans


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
    assert first.plans["a"].given["function"].endswith("planning:yields_keys")
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
    assert (now.timing.cron, now.timing.every, now.timing.priority, now.paused) == (
        "0 4 * * *",
        None,
        7,
        True,
    )
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
        (
            lambda s: plan_changes.change(s, "a", {"keys": ["k"]}),
            "are in the workers' code; only when it runs",
        ),
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
    plan_changes.change(
        store, "a", {"template": "planned:{n}", "params": {"n": ["1", "2"]}, "cron": "0 3 * * *"}
    )
    now = plan(store)
    assert (now.source, now.timing.every, now.timing.cron) == ("operator", None, "0 3 * * *")
    found = plans.keys_of("a", {"a": now}, tuple)
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
