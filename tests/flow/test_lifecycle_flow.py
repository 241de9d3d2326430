"""Workers and beat as processes: what they refuse to start with, and what the clock does."""

import pytest

from stoker.tasks import JobHandle, send
from tests.flow.conftest import Deployment
from tests.waiting import wait_until


def refusal(deployment: Deployment, *arguments: str, **environment: str) -> str:
    child = deployment.launch("refused", *arguments, **environment)
    assert child.process.wait(60) == 1
    return child.tail()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"STOKER_CACHE_URL": ""}, "STOKER_CACHE_URL=None: name the cache server"),
        ({"STOKER_BROKER_URL": ""}, "STOKER_BROKER_URL=None: give the broker's URL"),
        ({"STOKER_LOADERS": "no.such.module"}, "'no.such.module' cannot be imported (ModuleNotFoundError"),
        ({"STOKER_CACHE_ULR": "x"}, "did you mean STOKER_CACHE_URL?"),
    ],
)
def test_a_worker_that_could_not_work_does_not_start(
    deployment: Deployment, wrong: dict[str, str], told: str
) -> None:
    text = refusal(deployment, "worker", **wrong)
    assert told in text
    assert "Traceback" not in text


def test_flower_does_not_start_without_a_password(deployment: Deployment) -> None:
    assert "STOKER_FLOWER__PASSWORD=None: choose the password" in refusal(deployment, "flower")


def test_beat_asks_for_sweeps_and_evictions_and_sends_orphaned_jobs_again(deployment: Deployment) -> None:
    # Given a job whose message was lost
    deployment.jobs.open(
        "11111111-2222-3333-4444-555555555555", "warm", {"keys": ["slow:1"]}, {"keys": ["slow:1"]}
    )
    # When beat and a worker run
    often = {f"STOKER_BEAT__{name}_EVERY": "0.5" for name in ("REAP", "SWEEP", "EVICT")}
    beat = deployment.start("beat", "beat", ready="beat: Starting", **often)
    deployment.worker()
    # Then the clock's jobs run, and the lost one too
    for kind in ("sweep", "evict"):
        wait_until(lambda k=kind: (job := deployment.newest(k)) and job.state == "succeeded")  # type: ignore[misc]
    assert JobHandle("11111111-2222-3333-4444-555555555555").wait(timeout=60).state == "succeeded"
    assert beat.process.poll() is None


def test_an_idle_worker_ends_at_once_when_it_is_told_to(deployment: Deployment) -> None:
    assert deployment.end(deployment.worker()) == 0


@pytest.mark.slow
@pytest.mark.soak
def test_a_job_of_a_worker_that_is_told_to_end_goes_on_on_another_at_once(deployment: Deployment) -> None:
    # Given leases and locks that would outlive this test
    patient = {"STOKER_WORKER__VISIBILITY_TIMEOUT": "600", "STOKER_JOB__LOCK_TTL": "600"}
    first = deployment.worker("a", **patient)
    job = send.warm([f"slow:{number}" for number in range(400)])
    deployment.wait_for(job, lambda status: status.done > 0)
    # When the worker is told to end in the middle of a job
    deployment.end(first)
    # Then it has given its message and its lock back
    deployment.worker("b", **patient)
    assert job.wait(timeout=60).done == 400
