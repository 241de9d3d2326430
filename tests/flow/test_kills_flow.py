"""Workers that are killed, by SIGKILL and without warning: one process of them, or all at once."""

import os
import random
import signal
import time
from functools import partial

import pytest

from stoker.cache import Cache
from stoker.tasks import JobHandle, JobStatus, send
from tests.flow.conftest import Deployment
from tests.flow.effects import loaded_again
from tests.waiting import wait_until
from tests.worker.alive import descendants

KEYS = 200  # of one job: two seconds
DEAD = 100  # entries that each invalidation kills
PATIENT = {  # a machine that is busy otherwise must not look like one that was killed
    "STOKER_LEASE": "4",
    "STOKER_JOB__LOCK_TTL": "3",
    "STOKER_TEST_LOAD_SECONDS": "0.01",
}


class Supervisor:
    """Keeps three workers running, and is their killer too.

    A worker whose process is killed while it starts gives up and exits, which is Celery's way: as where workers are
    deployed, what ends is started again.
    """

    def __init__(self, deployment: Deployment, seed: int) -> None:
        self._deployment = deployment
        self._chance = random.Random(seed)
        self._workers = {name: deployment.worker(name, 1, **PATIENT) for name in "abc"}
        self.killed: set[int] = set()
        self.kills = 0

    def kill_one(self) -> None:
        self.start_what_ended()
        name = self._chance.choice(sorted(self._workers))
        worker = self._workers[name]
        os.killpg(worker.pid, signal.SIGSTOP)  # so that what is about to die is known
        processes = descendants(worker.pid)
        if processes and self._chance.random() < 0.4:
            victim = self._chance.choice(sorted(processes))
            os.kill(victim, signal.SIGKILL)
            os.killpg(worker.pid, signal.SIGCONT)
            self.killed.add(victim)
        else:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.process.wait(5)
            self.killed |= processes
        self.kills += 1
        self.start_what_ended()

    def start_what_ended(self) -> None:
        """It becomes ready in its own time, or is killed before."""
        ended = [name for name, worker in self._workers.items() if worker.process.poll() is not None]
        for name in ended:
            self._deployment.kill(self._workers[name])
        for name in ended:
            arguments = ("worker", "--name", name, "--concurrency", "1")
            self._workers[name] = self._deployment.launch(name, *arguments, **PATIENT)

    def ends(self, job: JobHandle) -> JobStatus | None:
        """Its status if it is over."""
        self.start_what_ended()
        status = job.status()
        return status if status.final else None

    def log(self) -> str:
        return "\n".join(worker.tail(30) for worker in self._workers.values())


@pytest.fixture
def supervisor(deployment: Deployment) -> Supervisor:
    deployment.start("beat", "beat", ready="beat: Starting", **PATIENT, STOKER_BEAT__REAP_EVERY="1")
    return Supervisor(deployment, seed=3)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seconds", [pytest.param(20, marks=pytest.mark.soak), 120])
def test_random_kills_lose_no_job_and_repeat_no_finished_batch(
    deployment: Deployment, supervisor: Supervisor, other_cache: Cache, seconds: int
) -> None:
    # Given jobs for every process at any time
    warms: list[JobHandle] = []
    invalidations: list[JobHandle] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if sum(not job.status().final for job in warms) < 6:
            first = len(warms) * KEYS
            warms.append(send.warm([f"slow:{number}" for number in range(first, first + KEYS)]))
            turn = len(invalidations)
            other_cache.set_many({f"dead:{turn}:{number}": 0 for number in range(DEAD)}, ttl=600)
            invalidations.append(send.invalidate_pattern(f"dead:{turn}:*"))
        # When workers are killed one after the other
        supervisor.kill_one()
        time.sleep(random.uniform(0.5, 3))
    # Then every job ends well
    for job in (*warms, *invalidations):
        status = wait_until(partial(supervisor.ends, job), 60, supervisor.log)
        assert status.state == "succeeded", status
    for job in warms:
        status = job.status()
        assert (status.done, status.total, status.failed) == (KEYS, KEYS, 0)
        assert status.report["written"] + status.report["fresh"] == KEYS
    # And its effects were made once: no key was loaded again unless its load was killed
    calls = deployment.calls()
    assert {key for call in calls for key in call.keys} == {f"slow:{n}" for n in range(len(warms) * KEYS)}
    assert loaded_again(calls, supervisor.killed) == {}
    assert supervisor.kills > seconds / 5
    # And what was invalidated is gone
    assert wait_until(partial(supervisor.ends, send.sweep()), 30, supervisor.log).state == "succeeded"
    assert deployment.entries() == len(warms) * KEYS
    assert deployment.jobs.dead(9) == []


@pytest.mark.slow
def test_a_killed_workers_task_is_taken_over_within_its_visibility_timeout_and_two_seconds(
    deployment: Deployment,
) -> None:
    visibility = deployment.settings.worker.visibility_timeout
    for turn in range(3):
        # Given two workers, one of them in the middle of a job
        workers = [deployment.worker(name) for name in "ab"]
        job = send.warm([f"slow:{number}" for number in range(turn * 2000, turn * 2000 + 2000)])
        deployment.wait_for(job, lambda status: status.done >= 100)
        runs_it = deployment.calls()[-1].pid
        (victim,) = [worker for worker in workers if runs_it in descendants(worker.pid)]
        # When that one is killed
        began = time.monotonic()
        deployment.kill(victim)
        # Then the other goes on
        wait_until(lambda pid=runs_it: deployment.calls()[-1].pid != pid)  # type: ignore[misc]
        took = time.monotonic() - began
        assert took <= visibility + 2
        job.abort()
        deployment.kill_all()


@pytest.mark.slow
def test_a_key_whose_loader_kills_its_process_is_given_up_and_costs_no_other(deployment: Deployment) -> None:
    deployment.worker()
    good = [f"slow:{number}" for number in range(40)]
    status = send.warm([*good, "deadly:1"]).wait(timeout=120)
    assert (status.done, status.report["written"], status.failed) == (41, 40, 1)
    [(key, error)] = status.report["errors"]
    assert key == "deadly:1"
    assert error.startswith("given up: 3 workers were killed")
    assert loaded_again(deployment.calls()) == {}


@pytest.mark.slow
def test_a_job_that_kills_its_process_each_time_is_given_up_and_listed_with_the_reason(
    deployment: Deployment,
) -> None:
    # Given a plan whose keys cannot be named without the death of who asks for them
    deployment.worker(STOKER_LOADERS="tests.flow.loaders,tests.flow.deadly_plan")
    job = send.warm_plan("deadly")
    status = wait_until(lambda: s if (s := job.status()).final else None, 120)
    # Then its job has failed after a few runs
    assert status.state == "failed"
    assert status.error.startswith("given up after 5 runs without progress")
    assert [dead.id for dead in deployment.jobs.dead(9)] == [job.id]
    # And the worker goes on
    assert send.warm(["slow:1000"]).wait(timeout=60).done == 1
