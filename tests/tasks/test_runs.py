"""What a task does with its job when something is away, gone or wrong. The tasks run in this process."""

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
import redis
from celery.exceptions import SoftTimeLimitExceeded

from stoker import tasks
from stoker.cache import Cache, keys, loader
from stoker.config import Settings, open_cache
from stoker.tasks import JobHandle, configure, names, runtime, send
from stoker.tasks.app import app
from stoker.tasks.base import MAX_STARTS, MAX_TRIES
from stoker.tasks.job import ANY, Claim, JobStore
from tests.tasks.conftest import brief_locks
from tests.waiting import wait_until, within

CLOSED = "redis://127.0.0.1:1/0"


@loader("ran:{number}")
def _load(number: int) -> int:
    return number


@loader("ended:{number}")
def _end_all_jobs(number: int) -> int:
    """As a worker does when their tasks are revoked."""
    jobs = runtime.current().jobs
    for job in jobs.recent(9):
        jobs.finish(job.id, "aborted", ANY, {"error": "its task was revoked"})
    return number


@pytest.fixture
def cache(settings: Settings) -> Iterator[Cache]:
    with open_cache(settings) as opened:
        yield opened


def run(task: object, job: JobHandle, **message: object) -> str:
    """Run a job's task here, as a worker that got this message would; returns Celery's state."""
    result = task.apply(kwargs={"job_id": job.id, **message}, task_id=job.id)  # type: ignore[attr-defined]
    return str(result.state)


def messages(settings: Settings, queue: str) -> list[dict[str, object]]:
    """Headers and arguments of what waits in a queue, oldest first."""
    with redis.Redis.from_url(settings.broker()) as client:
        raw = client.lrange(names.queue(settings.namespace, queue), 0, -1)
    return [json.loads(text)["headers"] for text in reversed(raw)]


def forget(settings: Settings, job: JobHandle) -> None:
    with redis.Redis.from_url(settings.broker()) as client:
        client.delete(keys.job(settings.namespace, job.id))


def test_an_invalidation_whose_record_is_lost_is_carried_out_nevertheless(
    producer: Settings, cache: Cache
) -> None:
    cache.set("user:1", 1)
    job = send.invalidate_pattern("user:*")
    forget(producer, job)
    assert run(tasks.invalidate, job, version=1, pattern="user:*") == "SUCCESS"
    assert cache.get("user:1") is None


def test_an_invalidation_is_carried_out_while_the_state_server_is_away(
    settings: Settings, cache: Cache
) -> None:
    cache.set("user:1", 1)
    configure(settings.model_copy(update={"broker_url": CLOSED}))
    job = JobHandle(str(uuid4()))
    assert run(tasks.invalidate, job, version=1, pattern="user:*") == "SUCCESS"
    assert cache.get("user:1") is None
    runtime.current().close()


@pytest.mark.usefixtures("producer")
def test_an_invalidation_that_was_told_to_stop_in_time_does_nothing(cache: Cache) -> None:
    cache.set("user:1", 1)
    job = send.invalidate_pattern("user:*")
    job.abort()
    run(tasks.invalidate, job, version=1, pattern="user:*")
    assert cache.get("user:1") == 1


@pytest.mark.usefixtures("cache")
def test_invalidations_that_come_close_together_share_one_sweep(producer: Settings) -> None:
    for number in range(5):
        run(tasks.invalidate, send.invalidate_pattern(f"{number}:*"))
    assert [message["task"] for message in messages(producer, "maintenance")] == [names.SWEEP]


def test_keys_alone_are_deleted_at_once_and_need_no_sweep(producer: Settings, cache: Cache) -> None:
    cache.set("a", 1)
    job = send.invalidate(keys=["a", "b"])
    run(tasks.invalidate, job)
    assert job.report == {"done": 2, "deleted": 1, "bans": 0}
    assert messages(producer, "maintenance") == []


def test_while_the_cache_is_away_a_job_waits_and_is_tried_again_from_where_it_was(settings: Settings) -> None:
    configure(settings.model_copy(update={"cache_url": CLOSED}))
    job = send.warm(["ran:1"])
    assert run(tasks.warm, job) == "IGNORED"
    status = job.status()
    assert status.state == "running"
    assert status.error.startswith("CacheUnavailable")
    first, second = messages(settings, "warm")
    assert first["id"] == second["id"] == job.id
    assert second["eta"] is not None
    # And when the cache is back
    configure(settings)
    assert run(tasks.warm, job) == "SUCCESS"
    assert (job.status().state, job.status().error) == ("succeeded", "")
    runtime.current().close()


def test_a_job_is_given_up_when_the_cache_stays_away(settings: Settings, jobs: JobStore) -> None:
    configure(settings.model_copy(update={"cache_url": CLOSED}))
    job = send.warm(["ran:1"])
    claim = jobs.claim(job.id)
    assert isinstance(claim, Claim)
    jobs.progress(claim, {"tries": MAX_TRIES})
    jobs.release(claim)
    assert run(tasks.warm, job) == "FAILURE"
    assert job.status().state == "failed"
    assert jobs.dead(9) == [job.status()]
    runtime.current().close()


@pytest.mark.usefixtures("producer")
def test_a_job_that_was_ended_from_outside_while_it_ran_is_no_failure_of_its_task() -> None:
    job = send.warm(["ended:1", "ran:1"])
    assert run(tasks.warm, job) == "IGNORED"
    assert (job.status().state, job.status().error) == ("aborted", "its task was revoked")


@pytest.mark.parametrize("where", ["progress", "postpone", "release", "finish"])
def test_a_job_goes_on_wherever_its_soft_time_limit_meets_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Once, and before the state server has heard of it, as a signal that interrupts the wait for its answer."""
    limit: list[Exception] = [SoftTimeLimitExceeded()]

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        if limit:
            raise limit.pop()
        return whole(*args, **kwargs)

    configure(settings)
    if where in ("postpone", "release"):  # what a run does that hands over by itself
        brief = settings.job.model_copy(update={"batch": 1, "soft_time_limit": 0.001})
        configure(settings.model_copy(update={"job": brief}))
    job = send.warm(["ran:1", "ran:2"])
    here = runtime.current().jobs
    whole = getattr(here, where)
    monkeypatch.setattr(here, where, interrupted)
    assert run(tasks.warm, job) == "IGNORED"
    # Then another message waits, and whoever gets it need not wait for a lock
    assert [message["id"] for message in messages(settings, "warm")] == [job.id, job.id]
    assert not limit
    configure(settings)
    assert run(tasks.warm, job) == "SUCCESS"
    assert job.status().done == 2
    runtime.current().close()


@pytest.mark.usefixtures("producer")
def test_a_job_that_kills_whoever_runs_it_is_given_up_and_listed_as_dead(jobs: JobStore) -> None:
    job = send.warm(["ran:1"])
    for _ in range(MAX_STARTS):
        claim = jobs.claim(job.id)
        assert isinstance(claim, Claim)
        jobs.release(claim)
    assert run(tasks.warm, job) == "FAILURE"
    assert "given up after 5 runs without progress" in job.status().error
    assert jobs.dead(9) == [job.status()]


@pytest.mark.usefixtures("producer")
def test_an_invalidation_that_kills_whoever_runs_it_is_given_up_and_listed_as_dead(jobs: JobStore) -> None:
    job = send.invalidate_pattern("user:*")
    for _ in range(MAX_STARTS):
        jobs.begin(job.id)
    assert run(tasks.invalidate, job, version=1, pattern="user:*") == "FAILURE"
    assert "given up after 5 runs without progress" in job.status().error
    assert jobs.dead(9) == [job.status()]
    assert run(tasks.invalidate, job, version=1, pattern="user:*") == "IGNORED"


def test_an_invalidation_waits_for_the_cache_longer_than_for_what_kills_it(
    settings: Settings, jobs: JobStore
) -> None:
    configure(settings.model_copy(update={"cache_url": CLOSED}))
    job = send.invalidate_pattern("user:*")
    assert (
        run(tasks.invalidate, job, version=1, pattern="user:*") == "FAILURE"
    )  # here all tries follow at once
    assert job.status().error.startswith("invalidate_pattern was not acknowledged")
    assert jobs.dead(9) == [job.status()]
    runtime.current().close()


def test_a_second_copy_of_a_running_jobs_message_comes_back_when_the_lock_has_ended(
    producer: Settings, jobs: JobStore
) -> None:
    job = send.warm(["ran:1"])
    claim = jobs.claim(job.id)
    assert run(tasks.warm, job) == "IGNORED"
    assert [message["id"] for message in messages(producer, "warm")] == [job.id, job.id]
    assert isinstance(claim, Claim)
    assert jobs.progress(claim) == "on"
    jobs.release(claim)
    assert run(tasks.warm, job) == "SUCCESS"
    assert run(tasks.warm, job) == "IGNORED"  # and one that comes after the end does nothing
    assert len(messages(producer, "warm")) == 2


def test_a_job_without_its_record_is_not_run_and_says_so(producer: Settings) -> None:
    job = send.warm(["ran:1"])
    forget(producer, job)
    assert run(tasks.warm, job) == "FAILURE"


@pytest.mark.usefixtures("producer")
def test_a_message_that_a_worker_does_not_understand_fails_its_job(jobs: JobStore) -> None:
    job = send.sweep()
    assert run(tasks.sweep, job, version=1, speed=9) == "FAILURE"
    assert job.status().state == "failed"
    assert "speed=9" in job.status().error
    assert jobs.dead(9) == [job.status()]


@pytest.mark.usefixtures("producer")
@pytest.mark.parametrize("task", [names.WARM, names.INVALIDATE])
def test_a_record_that_a_worker_does_not_understand_fails_its_job(jobs: JobStore, task: str) -> None:
    job = JobHandle(jobs.open("a", names.kind(task), {"version": 2}, None))
    assert run(app.tasks[task], job) == "FAILURE"
    assert "version=2" in job.status().error
    assert jobs.dead(9) == [job.status()]


@brief_locks
@pytest.mark.usefixtures("producer")
def test_the_reaper_sends_orphans_again_under_their_own_id(settings: Settings, jobs: JobStore) -> None:
    job = send.warm(["ran:1"])
    jobs.claim(job.id)
    wait_until(lambda: tasks.reap.apply().result == {"sent": 1})
    assert [message["id"] for message in messages(settings, "warm")] == [job.id, job.id]
    assert tasks.reap.apply().result == {"sent": 0}


@pytest.mark.usefixtures("producer")
def test_a_job_ends_whoever_waits_within_milliseconds() -> None:
    job = send.warm(["ran:1"])
    run(tasks.warm, job)
    within(0.2, lambda: job.wait(timeout=1))


def test_a_refresh_is_a_task_without_a_job_that_ends_with_the_lease(producer: Settings) -> None:
    send.refresh("user:1", "acme")
    [message] = messages(producer, "refresh")
    assert message["task"] == names.REFRESH
    assert message["expires"] is not None
    assert runtime.current().jobs.recent(10) == []
    with pytest.raises(tasks.InvalidArguments, match="key"):
        send.refresh("")
