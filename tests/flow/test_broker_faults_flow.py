"""A broker that crashes, freezes, drops its connections or forgets everything, under workers in the middle of jobs.

In each, jobs run at two workers, of which one listens for more all the time and the other often has no process
free; one message waits unacknowledged in a worker until it is due (the sweep after an invalidation), and the clock of
beat runs. No worker may die, and everything is done once: each key is loaded by one call, in all.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stoker.cache import Cache
from stoker.tasks import JobHandle, JobLost, send
from stoker.worker.processes import Child, Processes
from tests.flow.broker import Broker
from tests.flow.conftest import Deployment
from tests.flow.effects import loaded_again
from tests.waiting import wait_until

PATIENT = {  # the life of leases and locks is as short as leaves room for a machine that is busy otherwise
    "STOKER_LEASE": "5",
    "STOKER_JOB__LOCK_TTL": "3",
    "STOKER_JOB__SWEEP_DELAY": "2",
    "STOKER_TEST_LOAD_SECONDS": "0.02",
}
KEYS = 300  # of one job: six seconds
DEAD = 200  # entries that each invalidation kills


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Processes() as processes:
        yield Broker(processes, tmp_path)


@pytest.fixture
def broker_server(broker: Broker) -> str:
    return broker.url


class Load:
    """Two workers, beat, and jobs for them."""

    def __init__(self, deployment: Deployment, app: Cache) -> None:
        self.deployment = deployment
        self._app = app
        deployment.start("beat", "beat", ready="beat: Starting", **PATIENT, STOKER_BEAT__REAP_EVERY="1")
        self.workers = [deployment.worker(name, size, **PATIENT) for name, size in (("a", 2), ("b", 6))]
        self.warms: list[JobHandle] = []
        self.invalidations: list[JobHandle] = []

    def add(self, warms: int) -> None:
        """Ask for so many more warms, and invalidate what is there to be."""
        for _ in range(warms):
            first = len(self.warms) * KEYS
            self.warms.append(send.warm([f"slow:{number}" for number in range(first, first + KEYS)]))
        turn = len(self.invalidations)
        self._app.set_many({f"dead:{turn}:{number}": 0 for number in range(DEAD)}, ttl=600)
        self.invalidations.append(send.invalidate_pattern(f"dead:{turn}:*"))

    def wait_for_calls(self, more: int) -> None:
        """Return after so many more batches."""
        before = len(self.deployment.calls())
        wait_until(lambda: len(self.deployment.calls()) >= before + more, 30, self.logs)

    def wait_for_workers(self, text: str, times: int) -> None:
        """Return when the log of each worker holds the text so many times."""
        wait_until(lambda: all(log(worker).count(text) >= times for worker in self.workers), 30, self.logs)

    def ends_well(self) -> None:
        """All jobs have succeeded, each key was loaded once, what is dead is gone, and no worker has died."""
        for job in (*self.warms, *self.invalidations):
            job.wait(timeout=60)
        wait_until(lambda: all(job.state == "succeeded" for job in self.deployment.jobs.recent(100)), 30)
        assert loaded_again(self.deployment.calls()) == {}
        assert self.deployment.loads() == len(self.warms) * KEYS
        assert self.deployment.entries() == len(self.warms) * KEYS
        for worker in self.workers:
            assert worker.process.poll() is None, worker.tail()
            assert "WorkerLostError" not in log(worker)

    def logs(self) -> str:
        return "\n".join(worker.tail(40) for worker in self.workers)


def log(worker: Child) -> str:
    return worker.log.read_text(errors="replace")


@pytest.fixture
def load(deployment: Deployment, other_cache: Cache) -> Load:
    return Load(deployment, other_cache)


@pytest.mark.slow
@pytest.mark.soak
def test_a_worker_in_the_middle_of_a_job_survives_a_restart_of_its_broker(
    deployment: Deployment, broker: Broker
) -> None:
    worker = deployment.worker("a", 2)  # one process is free, so the worker listens for more
    job = send.warm([f"slow:{number}" for number in range(600)])
    deployment.wait_for(job, lambda status: status.done >= 50)
    broker.crash()
    wait_until(lambda: "Connection to broker lost" in log(worker))
    broker.restart()
    assert job.wait(timeout=40).done == 600
    assert worker.process.poll() is None, worker.tail()
    assert send.warm(["slow:9999"]).wait(timeout=40).done == 1


def restart(broker: Broker, load: Load, turn: int) -> None:
    broker.crash()
    load.wait_for_workers("Connection to broker lost", turn)
    broker.restart()


def drop_connections(broker: Broker, load: Load, turn: int) -> None:
    broker.drop_connections()
    load.wait_for_workers("Connection to broker lost", turn)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", [pytest.param(restart, marks=pytest.mark.soak), drop_connections])
def test_five_faults_of_the_broker_in_a_row_cost_no_worker_and_no_job(
    load: Load, broker: Broker, fault: Callable[[Broker, Load, int], None]
) -> None:
    load.add(4)
    for turn in range(1, 6):
        load.add(2)
        load.wait_for_calls(8)
        fault(broker, load, turn)
        load.wait_for_workers("Connected to", turn + 1)
    load.ends_well()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_broker_that_freezes_for_fifteen_seconds_costs_no_worker_and_no_job(
    load: Load, broker: Broker
) -> None:
    load.add(8)
    load.wait_for_calls(8)
    broker.freeze()
    time.sleep(15)
    broker.thaw()
    load.add(1)  # an app's next request needs no second try
    load.ends_well()


@pytest.mark.slow
def test_a_broker_that_forgets_everything_costs_the_jobs_and_says_so_but_neither_worker_nor_truth(
    load: Load, broker: Broker, other_cache: Cache
) -> None:
    # Given running and queued jobs, and a value that was read
    load.add(8)
    load.wait_for_calls(8)
    other_cache.set("user:1", "before")
    # When the broker's server is flushed
    broker.flush()
    # Then whoever waits is told that the job is lost, and none of them goes on
    for job in load.warms:
        with pytest.raises(JobLost):
            job.wait(timeout=5)
    # And the workers answer, new jobs run, and an invalidation still invalidates
    assert len(load.deployment.control.ping(timeout=5, limit=3) or ()) == 3
    new = send.warm(["slow:1000000"])
    began = time.monotonic()
    assert new.wait(timeout=60).report["written"] == 1
    assert time.monotonic() - began < 5
    assert other_cache.get("user:1") == "before"
    send.invalidate_pattern("user:*").wait(timeout=60)
    assert other_cache.get("user:1") is None
    # And what the lost jobs had loaded is not loaded again, nor is anything loaded for them any more
    before = load.deployment.loads()
    assert send.warm([f"slow:{number}" for number in range(40)]).wait(timeout=60).report["fresh"] == 40
    assert load.deployment.loads() == before
    assert loaded_again(load.deployment.calls()) == {}
    assert [worker.process.poll() for worker in load.workers] == [None, None]
