"""What the doctor says of warm plans."""

import pytest
import redis

from stoker.cache import keys
from stoker.config import Settings
from stoker.tasks import configure, plan_changes, runtime
from stoker.tasks.plan_record import PlanRecord
from stoker.worker.doctor.run import diagnose
from stoker.worker.embedded import Server
from tests.worker.doctor.asking import ERROR, WARNING, sole


@pytest.fixture
def plans_at(broker_server: Server) -> str:
    """The state server's URL; one plan is there."""
    configure(Settings(broker_url=broker_server.url))
    plan_changes.add(runtime.current().plans, "nightly", {"keys": ["k"], "every": "1h"})
    return broker_server.url


def change(**fields: object) -> None:
    def changed(plan: PlanRecord | None, now_ms: int) -> PlanRecord | None:
        moved = {name: now_ms + value if isinstance(value, int) else value for name, value in fields.items()}
        return plan and plan.with_(**moved)

    runtime.current().plans.update("nightly", changed)


def test_plans_that_run_are_counted(plans_at: str) -> None:
    assert [f.seen for f in diagnose(Settings(broker_url=plans_at), ["plans"])] == ["1 warm plan"]


def test_a_plan_that_is_due_and_not_started_is_told_unless_it_is_paused(plans_at: str) -> None:
    change(next_ms=-120_000)
    finding = sole("plans", broker_url=plans_at)
    assert (finding.severity, finding.seen) == (ERROR, "due, and not started: nightly")
    plan_changes.pause(runtime.current().plans, "nightly")
    assert [f.seen for f in diagnose(Settings(broker_url=plans_at), ["plans"])] == ["1 warm plan, 1 paused"]


def test_missed_and_failed_runs_are_told(plans_at: str) -> None:
    change(missed_ms=-1000)
    assert sole("plans", broker_url=plans_at).seen.startswith(
        "runs were missed within the last hour: nightly"
    )
    plan_changes.change(runtime.current().plans, "nightly", {"rate": 5.0})
    assert sole("plans", broker_url=plans_at).remedy.endswith("limits of their own: nightly (5 keys/s)")
    change(missed_ms=-7_200_000, outcome="failed", error="no coal")
    finding = sole("plans", broker_url=plans_at)
    assert (finding.severity, finding.cause) == (WARNING, "nightly: no coal")


def test_what_cannot_be_read_and_what_was_lost_is_told(plans_at: str) -> None:
    with redis.Redis.from_url(plans_at) as client:
        client.hset(keys.plans("stoker"), "odd", "no JSON")
    assert sole("plans", broker_url=plans_at).seen == "records of warm plans that cannot be read: odd"
    with redis.Redis.from_url(plans_at) as client:
        client.hdel(keys.plans("stoker"), "odd")
        client.hset(keys.plans("stoker"), ":lost", '{"ops": "added"}')
    assert sole("plans", broker_url=plans_at).seen == "what operators did to warm plans is lost: ops (added)"
