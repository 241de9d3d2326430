"""Warm plans in real workers under a real beat: by the clock, at the start, by an operator, and through kills."""

import json
import os
import signal
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stoker.cache import Cache
from stoker.tasks import JobStatus, configure, runtime, send
from stoker.tasks.hot_replay import REPLAY
from stoker.tasks.plan_record import PlanRecord
from stoker.worker import cli
from stoker.worker.processes import Processes
from tests.flow.broker import Broker
from tests.flow.conftest import Deployment
from tests.flow.effects import loaded_again
from tests.waiting import wait_until
from tests.worker.alive import descendants

PLANS = {"STOKER_LOADERS": "tests.flow.loaders,tests.flow.plans"}
OFTEN = {"STOKER_BEAT__TICK_EVERY": "0.2"}


def stoker(*arguments: str) -> str:
    """Run a `stoker` command in this process."""
    result = CliRunner().invoke(cli.cli, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def beat(deployment: Deployment, name: str = "beat") -> None:
    deployment.launch(name, "beat", **OFTEN)


def plan(name: str) -> PlanRecord:
    return runtime.current().plans.read().plans[name]


def runs(deployment: Deployment, name: str) -> list[JobStatus]:
    """The jobs of a plan that have ended, newest first; its record names only the latest."""
    found = [job for job in deployment.jobs.recent(100) if job.kind == "warm" and job.final]
    return [
        job
        for job in found
        if job.report.get("asked") == {"often": 3, "quiet": 1, "first": 2, "ops": 5}[name]
    ]


def test_plans_run_by_the_clock_at_the_start_and_when_an_operator_adds_one(
    deployment: Deployment, other_cache: Cache
) -> None:
    # Given a plan that an operator paused before any worker knew it, and one that he added
    stoker("plans", "add", "quiet", "--keys", "slow:1")
    stoker("plans", "pause", "quiet")
    stoker(
        "plans", "add", "ops", "--template", "slow:{n}", "--param", "n=300,301,302,303,304", "--every", "1s"
    )
    first_due = plan("ops").next_ms
    # When workers and two beats run
    for name in "ab":
        beat(deployment, f"beat-{name}")
    deployment.worker("a", 2, **PLANS)
    # Then the plan of the start ran once, those of the clock more than once, and the paused one never
    for name in ("often", "ops"):
        wait_until(lambda name=name: len(runs(deployment, name)) >= 2)  # type: ignore[misc]
    newest, oldest = runs(deployment, "often")[0], runs(deployment, "often")[-1]
    assert (oldest.report["written"], newest.report["fresh"]) == (3, 3)
    assert other_cache.get("slow:2", "acme") == {"number": 2}
    assert other_cache.get("slow:304") == {"number": 304}
    assert other_cache.get("slow:200", "acme") == {"number": 200}
    assert len(runs(deployment, "first")) == 1
    assert runs(deployment, "quiet") == []
    # And two beats started each run once, but for those that are told as missed
    stoker("plans", "pause", "ops")
    wait_until(lambda: plan("ops").outcome and plan("ops").taken_ms is None)
    last = plan("ops")
    assert first_due is not None
    assert last.next_ms is not None
    assert len(runs(deployment, "ops")) == (last.next_ms - first_due) // 1000 - last.missed
    assert loaded_again(deployment.calls()) == {}
    # And all of it is listed
    listed = {row["name"]: row for row in json.loads(stoker("plans", "--json"))["plans"]}
    assert listed["quiet"]["paused"]
    assert listed["often"]["source"] == "code"
    assert listed["ops"]["schedule"] == "every 1s"
    assert "every 1s" in stoker("plans")


@pytest.mark.slow
def test_a_plan_whose_worker_is_killed_goes_on_without_repeating_a_finished_batch(
    deployment: Deployment,
) -> None:
    # Given a run that is half done
    worker = deployment.worker("a", **PLANS)
    job = send.warm_plan("long")
    deployment.wait_for(job, lambda status: status.done >= 100)
    # When its worker is killed, and the next one too
    killed = {call.pid for call in deployment.calls()}
    deployment.kill(worker)
    worker = deployment.worker("b", **PLANS)
    deployment.wait_for(job, lambda status: status.done >= 200)
    killed |= {call.pid for call in deployment.calls()}
    deployment.kill(worker)
    deployment.worker("c", **PLANS)
    # Then it ends complete, and only what was lost in the middle was loaded again
    status = job.wait(timeout=60)
    assert (status.done, status.report["written"] + status.report["fresh"]) == (400, 400)
    wanted = {f"slow:{number}" for number in range(1000, 1400)}
    calls = [call for call in deployment.calls() if call.keys[0] in wanted]
    assert loaded_again(calls, killed) == {}
    assert {key for call in calls for key in call.keys} == wanted


@pytest.mark.slow
def test_due_runs_that_no_worker_takes_are_counted_and_the_next_worker_runs_one(
    deployment: Deployment,
) -> None:
    # Given ticks, but nobody who warms
    arguments = ("worker", "--name", "a", "--concurrency", "1", "-q", "maintenance")
    deployment.start("a", *arguments, ready=" ready.", **PLANS)
    beat(deployment)
    # Then what was due and could not run is counted
    wait_until(lambda: "often" in runtime.current().plans.read().plans)
    missed = wait_until(lambda: plan("often").missed if plan("often").missed >= 2 else 0)
    assert runs(deployment, "often") == []
    assert f'"missed": {plan("often").missed}' in stoker("plans", "--json") or missed
    # When somebody comes, one run follows for all of them
    deployment.worker("b", **PLANS)
    wait_until(lambda: plan("often").outcome == "succeeded")


@pytest.mark.slow
def test_a_state_server_that_forgot_everything_knows_the_code_s_plans_again_and_tells_what_is_lost(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with Processes() as processes:
        state = Broker(processes, tmp_path)
        monkeypatch.setenv("STOKER_STATE_URL", state.url)
        deployment.environment["STOKER_STATE_URL"] = state.url
        configure(type(deployment.settings)())
        # Given plans of both kinds that run
        deployment.worker("a", **PLANS)
        beat(deployment)
        stoker("plans", "add", "ops", "--keys", "slow:300", "--every", "1h")
        wait_until(lambda: plan("often").outcome == "succeeded")
        stoker("plans", "pause", "quiet")
        for _ in range(2):  # the second of these runs is of a tick that has seen what the operator did
            before = plan("often").job
            wait_until(lambda before=before: plan("often").job != before)  # type: ignore[misc]
        # When the state server forgets everything
        state.flush()
        # Then the code's plans run again, and the operator's losses are told
        wait_until(
            lambda: set(runtime.current().plans.read().plans) == {"often", "quiet", "first", "long", REPLAY}
        )
        wait_until(lambda: plan("often").outcome == "succeeded")
        assert not plan("quiet").paused
        assert runtime.current().plans.read().lost == {"ops": "added", "quiet": "paused"}
        assert "the state server forgot what operators had done: ops (added), quiet (paused)" in stoker(
            "plans"
        )
        deployment.kill_all()
        runtime.current().close()


@pytest.mark.slow
def test_a_plan_keeps_running_while_processes_of_its_workers_are_killed(deployment: Deployment) -> None:
    worker = deployment.worker("a", 2, **PLANS)
    beat(deployment)
    wait_until(lambda: len(runs(deployment, "often")) >= 1)
    for _ in range(3):
        os.kill(min(descendants(worker.pid)), signal.SIGKILL)
        before = len(runs(deployment, "often"))
        wait_until(lambda before=before: len(runs(deployment, "often")) > before)  # type: ignore[misc]
    assert deployment.jobs.dead(9) == []
