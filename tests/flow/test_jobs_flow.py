"""Jobs in real workers: from a producer's request to its report, and on from where a killed worker stopped."""

import os
import signal

import pytest

from stoker import tasks
from stoker.cache import Cache
from stoker.tasks import JobAborted, JobFailed, send
from stoker.worker.processes import Child
from tests.flow.conftest import Deployment
from tests.flow.effects import loaded_again
from tests.waiting import wait_until


def slow_keys(count: int) -> list[str]:
    return [f"slow:{number}" for number in range(count)]


def deliveries(job_id: str, *workers: Child) -> int:
    return sum(worker.log.read_text().count(f"[{job_id}] received") for worker in workers)


def test_an_invalidation_through_the_task_makes_reads_miss_and_a_sweep_follows(
    deployment: Deployment, other_cache: Cache
) -> None:
    # Given entries of two tenants and one that nobody invalidates
    for tenant in ("acme", "umbrella"):
        other_cache.set_many({f"user:{number}": number for number in range(100)}, tenant)
    other_cache.set("price:1", 1, "acme")
    other_cache.set("tagged", 1, "acme", tags=["t"])
    deployment.worker()
    # When a pattern, a tag, a key and a tenant are invalidated
    report = send.invalidate_pattern("user:*", "acme").wait(timeout=60).report
    send.invalidate(keys=["price:1"], tags=["t"], tenant_id="acme").wait(timeout=60)
    # Then all of it, and nothing else, is gone for readers at once
    assert report == {"done": 1, "deleted": 0, "bans": 1}
    assert other_cache.get_many([f"user:{number}" for number in range(100)], "acme") == {}
    assert other_cache.get("price:1", "acme") is None
    assert other_cache.get("tagged", "acme") is None
    assert other_cache.get("user:1", "umbrella") == 1
    send.invalidate_tenant("umbrella").wait(timeout=60)
    assert other_cache.get("user:1", "umbrella") is None
    # And soon also from the server's memory
    wait_until(lambda: deployment.entries() == 0)
    sweep = wait_until(lambda: s if (s := deployment.newest("sweep")) and s.final else None)
    assert sweep.state == "succeeded"
    assert sweep.report["complete"]


def test_a_warm_reports_what_it_did_and_its_keys_are_readable(
    deployment: Deployment, other_cache: Cache
) -> None:
    deployment.worker()
    status = send.warm({"acme": [*slow_keys(50), "broken:1"], "umbrella": ["slow:1"]}).wait(timeout=60)
    assert (status.done, status.total, status.failed) == (52, 52, 1)
    assert status.report["written"] == 51
    assert status.report["errors"] == [["broken:1", "ValueError: no coal for 1"]]
    assert other_cache.get("slow:49", "acme") == {"number": 49}
    with pytest.raises(
        JobFailed, match=r"no key was written \(1 failed, 0 missing\); broken:2: ValueError: no coal"
    ):
        send.warm(["broken:2"]).wait(timeout=60)


def test_a_task_sent_by_delay_is_a_job_too_and_one_about_the_same_joins_it(deployment: Deployment) -> None:
    workers = [deployment.worker(name) for name in "ab"]
    first = tasks.warm.delay(keys=slow_keys(400))
    wait_until(lambda: deployment.jobs.status(first.id))
    second = tasks.warm.delay(keys=slow_keys(400))
    wait_until(lambda: any(f"{{'joined': '{first.id}'}}" in worker.log.read_text() for worker in workers))
    assert tasks.JobHandle(first.id).wait(timeout=60).report["written"] == 400
    assert deployment.jobs.status(second.id) is None
    assert deployment.loads() == 400


@pytest.mark.slow
@pytest.mark.soak
def test_a_warm_whose_worker_is_killed_goes_on_from_its_cursor_on_another(
    deployment: Deployment, other_cache: Cache
) -> None:
    # Given a warm that is half done
    first = deployment.worker("a")
    job = send.warm(slow_keys(400))
    deployment.wait_for(job, lambda status: status.done >= 100)
    # When its worker is killed and another is there
    deployment.kill(first)
    deployment.worker("b")
    # Then it ends complete, and no more than the batch that was lost was loaded twice
    status = job.wait(timeout=60)
    assert (status.done, status.total, status.failed) == (400, 400, 0)
    assert len(other_cache.get_many(slow_keys(400))) == 400
    assert 400 <= deployment.loads() <= 400 + deployment.settings.job.batch


@pytest.mark.slow
@pytest.mark.soak
def test_a_sweep_whose_worker_is_killed_goes_on_on_another_and_deletes_all(
    deployment: Deployment, other_cache: Cache
) -> None:
    # Given many dead entries, and a sweep that has begun to delete them
    for start in range(0, 12_000, 1000):
        other_cache.set_many({f"dead:{number}": number for number in range(start, start + 1000)})
    other_cache.set("alive", 1)
    first = deployment.worker("a")
    send.invalidate_pattern("dead:*").wait(timeout=60)
    job = send.sweep()
    before = deployment.wait_for(job, lambda status: status.report.get("deleted", 0) > 500)
    # When its worker is killed and another is there
    deployment.kill(first)
    assert deployment.entries() > 500
    deployment.worker("b")
    # Then it goes on, ends complete, and what is alive still is
    status = job.wait(timeout=60)
    assert status.report["complete"]
    assert status.report["deleted"] >= before.report["deleted"]
    assert deployment.entries() == 1
    assert other_cache.get("alive") == 1


def test_a_job_whose_process_alone_is_killed_goes_on_in_the_same_worker(deployment: Deployment) -> None:
    deployment.worker()
    job = send.warm(slow_keys(400))
    deployment.wait_for(job, lambda status: status.done >= 100)
    stats = deployment.control.inspect(timeout=3).stats() or {}
    (process,) = [
        pid for name, found in stats.items() if name.startswith("a@") for pid in found["pool"]["processes"]
    ]
    os.kill(process, signal.SIGKILL)
    assert job.wait(timeout=60).done == 400
    assert deployment.loads() <= 400 + deployment.settings.job.batch


@pytest.mark.slow
@pytest.mark.soak
def test_a_job_longer_than_its_time_limit_goes_on_in_another_run_under_the_same_id(
    deployment: Deployment,
) -> None:
    worker = deployment.worker(STOKER_JOB__SOFT_TIME_LIMIT="1", STOKER_JOB__TIME_LIMIT="3")
    job = send.warm(slow_keys(400))
    assert job.wait(timeout=60).done == 400
    assert deployment.loads() == 400
    assert deliveries(job.id, worker) >= 3


@pytest.mark.slow
def test_a_job_of_eight_seconds_under_a_limit_of_two_ends_complete_under_one_id(
    deployment: Deployment,
) -> None:
    limits = {"STOKER_JOB__SOFT_TIME_LIMIT": "2", "STOKER_JOB__TIME_LIMIT": "4", "STOKER_JOB__BATCH": "10"}
    worker = deployment.worker(**limits, STOKER_TEST_LOAD_SECONDS="0.02")
    job = send.warm(slow_keys(400))
    status = job.wait(timeout=60)
    assert (status.done, status.total, status.report["written"]) == (400, 400, 400)
    assert deployment.loads() == 400
    assert deliveries(job.id, worker) >= 5
    assert [found.id for found in deployment.jobs.recent(9)] == [job.id]
    assert "TimeLimitExceeded" not in worker.log.read_text()


@pytest.mark.slow
def test_copies_of_a_message_at_workers_that_race_for_them_are_one_run(deployment: Deployment) -> None:
    # Given three messages of one job, and as many free processes at two workers
    job = send.warm(slow_keys(600))
    for _ in range(2):
        send.again(job.id, "warm")
    workers = [deployment.worker(name, 2) for name in "ab"]
    # Then one of them works, and nothing is done twice
    assert job.wait(timeout=60).report["written"] == 600
    assert loaded_again(deployment.calls()) == {}
    assert len({call.pid for call in deployment.calls()}) == 1
    assert deliveries(job.id, *workers) >= 3
    # And the copies end with the job
    wait_until(lambda: deployment.waiting_messages() == 0)


@pytest.mark.slow
@pytest.mark.soak
def test_a_job_longer_than_the_visibility_timeout_is_delivered_once(deployment: Deployment) -> None:
    workers = [deployment.worker(name, STOKER_WORKER__VISIBILITY_TIMEOUT="1") for name in "ab"]
    job = send.warm(slow_keys(600))
    assert job.wait(timeout=60).done == 600
    assert deliveries(job.id, *workers) == 1


def test_a_running_job_stops_after_its_batch_when_it_is_told_to(deployment: Deployment) -> None:
    deployment.worker()
    job = send.warm(slow_keys(2000))
    deployment.wait_for(job, lambda status: status.done > 0)
    assert job.abort()
    with pytest.raises(JobAborted):
        job.wait(timeout=60)
    done = job.status().done
    assert 0 < done < 2000
    assert deployment.loads() <= done + 2 * deployment.settings.job.batch
