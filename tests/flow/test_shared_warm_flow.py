"""One warm, many workers: they share its batches, and any of them may be killed."""

import pytest

from stoker.tasks import send
from tests.flow.conftest import Deployment
from tests.flow.effects import loaded_again

SHARED = {"STOKER_JOB__HELPERS": "3", "STOKER_JOB__LANES": "1"}


def slow_keys(count: int) -> list[str]:
    return [f"slow:{n}" for n in range(count)]


def test_a_large_warm_is_shared_by_the_processes_that_are_free(deployment: Deployment) -> None:
    deployment.worker("a", 2, **SHARED)
    job = send.warm(slow_keys(600))
    status = job.wait(timeout=60)
    assert (status.done, status.report["asked"], status.report["written"]) == (600, 600, 600)
    calls = deployment.calls()
    assert len({call.pid for call in calls}) == 2
    assert loaded_again(calls) == {}
    assert [found.id for found in deployment.jobs.recent(9)] == [job.id], "helpers are no jobs"


@pytest.mark.slow
def test_a_warm_that_is_told_to_stop_stops_its_helpers(deployment: Deployment) -> None:
    deployment.worker("a", 2, **SHARED)
    job = send.warm(slow_keys(4000))
    deployment.wait_for(job, lambda status: status.done > 100)
    assert job.abort()
    deployment.wait_for(job, lambda status: status.state == "aborted")
    assert deployment.loads() < 2000
    job = send.warm(slow_keys(10))
    assert job.wait(timeout=60).done == 10, "the helper is free again"


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["the one that coordinates", "one that helps"])
def test_whoever_is_killed_the_warm_ends_complete_and_repeats_no_finished_batch(
    deployment: Deployment, victim: str
) -> None:
    workers = [deployment.worker(name, 1, **SHARED) for name in "abc"]
    job = send.warm(slow_keys(2000))
    deployment.wait_for(job, lambda status: status.done > 400)
    active = deployment.control.inspect(timeout=3).active() or {}
    runs = {name.partition("@")[0]: found[0]["name"] for name, found in active.items() if found}
    coordinates = next(name for name, task in runs.items() if task == "stoker.warm")
    helps = next(name for name, task in runs.items() if task == "stoker.warm_batch")
    name = coordinates if victim == "the one that coordinates" else helps
    deployment.kill(workers["abc".index(name)])
    status = job.wait(timeout=60)
    assert (status.report["asked"], status.report["written"] + status.report["fresh"]) == (2000, 2000)
    again = loaded_again(deployment.calls())
    assert len(again) <= deployment.settings.job.batch, "the batch that was lost"
