"""The rules of a job's record: who may run it, who may end it, what a second request becomes."""

import threading
import time
from typing import Any

import pytest
import redis

from stoker.cache import keys
from stoker.config import JobSettings, Settings
from stoker.tasks.errors import StateUnavailable
from stoker.tasks.job import ANY, NOBODY, Claim, JobStore, NotClaimed
from tests.tasks.conftest import brief_locks
from tests.waiting import wait_until, within

SWEEP: dict[str, Any] = {}


def claimed(jobs: JobStore, job_id: str) -> Claim:
    claim = jobs.claim(job_id)
    assert isinstance(claim, Claim)
    return claim


def state(jobs: JobStore, job_id: str) -> str:
    status = jobs.status(job_id)
    assert status is not None
    return status.state


def test_a_new_job_is_queued_and_knows_its_arguments(jobs: JobStore) -> None:
    assert jobs.open("a", "warm", {"keys": ["x"]}, {"keys": ["x"]}) == "a"
    assert state(jobs, "a") == "queued"
    assert claimed(jobs, "a").arguments == {"keys": ["x"]}


def test_a_second_request_for_the_same_target_joins_the_unfinished_job(jobs: JobStore) -> None:
    jobs.open("a", "warm", {}, {"keys": ["x"]})
    assert jobs.open("b", "warm", {}, {"keys": ["x"]}) == "a"
    assert jobs.open("c", "warm", {}, {"keys": ["y"]}) == "c"
    assert jobs.status("b") is None


def test_a_request_after_the_end_is_a_new_job(jobs: JobStore) -> None:
    jobs.open("a", "sweep", {}, SWEEP)
    jobs.finish("a", "succeeded", ANY)
    assert jobs.open("b", "sweep", {}, SWEEP) == "b"


def test_jobs_without_a_target_never_join(jobs: JobStore) -> None:
    assert [jobs.open(name, "invalidate", {"pattern": "x"}, None) for name in "ab"] == ["a", "b"]


def test_a_job_is_run_by_one_coordinator_at_a_time(jobs: JobStore) -> None:
    jobs.open("a", "sweep", {}, SWEEP)
    claimed(jobs, "a")
    second = jobs.claim("a")
    assert isinstance(second, NotClaimed)
    assert second.reason == "busy"
    assert 0 < second.wait <= jobs.lock_ttl


@brief_locks
def test_a_dead_coordinators_job_can_be_claimed_after_the_locks_life_and_goes_on_from_its_cursor(
    jobs: JobStore,
) -> None:
    # Given a coordinator that wrote one batch down and then is heard of no more
    jobs.open("a", "sweep", {}, SWEEP)
    first = claimed(jobs, "a")
    jobs.progress(first, {"done": 7, "cursor": {"at": 7}})
    # When its lock has ended
    second = wait_until(lambda: c if isinstance(c := jobs.claim("a"), Claim) else None)
    # Then the next one goes on where it was, with a token that is greater
    assert (second.cursor, second.done, second.starts) == ({"at": 7}, 7, 2)
    assert second.token > first.token


def test_a_coordinator_whose_lock_another_took_writes_nothing(jobs: JobStore) -> None:
    jobs.open("a", "sweep", {}, SWEEP)
    first = claimed(jobs, "a")
    jobs.release(first)
    claimed(jobs, "a")
    assert jobs.progress(first, {"done": 99}) == "taken"
    assert jobs.finish("a", "succeeded", first.token) == "taken"
    status = jobs.status("a")
    assert status is not None
    assert (status.state, status.done) == ("running", 0)


def test_a_coordinator_whose_lock_has_ended_is_told_so(jobs: JobStore) -> None:
    jobs.open("a", "sweep", {}, SWEEP)
    claim = claimed(jobs, "a")
    jobs.release(claim)
    assert jobs.progress(claim) == "expired"


@brief_locks
def test_progress_keeps_the_lock(jobs: JobStore) -> None:
    jobs.open("a", "sweep", {}, SWEEP)
    claim = claimed(jobs, "a")
    until = time.monotonic() + 2 * jobs.lock_ttl
    while time.monotonic() < until:
        assert jobs.progress(claim) == "on"
        assert isinstance(jobs.claim("a"), NotClaimed)


def test_a_coordinator_whose_record_is_gone_is_told_so_and_does_not_bring_it_back(
    jobs: JobStore, settings: Settings, broker_server: str
) -> None:
    jobs.open("a", "sweep", {}, SWEEP)
    claim = claimed(jobs, "a")
    with redis.Redis.from_url(broker_server) as client:
        client.delete(keys.job(settings.namespace, "a"))
    assert jobs.progress(claim, {"done": 1}) == "lost"
    assert jobs.finish("a", "succeeded", claim.token) == "lost"
    assert jobs.status("a") is None
    assert jobs.claim("a") == NotClaimed("lost")


def test_abort_ends_a_job_that_nobody_runs_at_once(jobs: JobStore) -> None:
    jobs.open("a", "sweep", {}, SWEEP)
    assert jobs.finish("a", "aborted", NOBODY) == "aborted"
    assert jobs.claim("a") == NotClaimed("aborted")
    assert jobs.open("b", "sweep", {}, SWEEP) == "b"


def test_abort_asks_the_coordinator_of_a_running_job(jobs: JobStore) -> None:
    jobs.open("a", "sweep", {}, SWEEP)
    claim = claimed(jobs, "a")
    assert jobs.finish("a", "aborted", NOBODY) == "asked"
    assert state(jobs, "a") == "running"
    assert jobs.progress(claim) == "abort"


@pytest.mark.parametrize("who", [NOBODY, ANY])
def test_abort_has_what_goes_on_without_a_process_ended_by_the_next_run(jobs: JobStore, who: str) -> None:
    jobs.open("a", "rebalance", {}, {"act": True})
    claim = claimed(jobs, "a")
    jobs.progress(claim, {"cursor": {"at": 3}, "unattended": 1})
    jobs.release(claim)
    assert list(jobs.orphans()) == []
    # When nobody is at it, or who was has been terminated
    assert jobs.finish("a", "aborted", who) == "asked"
    # Then it is sent at once, to be stopped; and a request that comes meanwhile does not join it
    assert state(jobs, "a") == "running"
    assert list(jobs.orphans()) == [("a", "rebalance")]
    assert jobs.open("b", "rebalance", {}, {"act": True}) == "b"
    claim = claimed(jobs, "a")
    assert claim.cursor == {"at": 3}
    assert jobs.progress(claim) == "abort"
    assert jobs.finish("a", "aborted", claim.token) == "aborted"
    assert jobs.open("c", "rebalance", {}, {"act": True}) == "b"


def test_a_finished_job_stays_as_it_ended(jobs: JobStore) -> None:
    jobs.open("a", "sweep", {}, SWEEP)
    claim = claimed(jobs, "a")
    jobs.finish("a", "failed", claim.token, {"error": "no coal"})
    assert jobs.finish("a", "aborted", NOBODY) == "failed"
    assert jobs.finish("a", "succeeded", ANY) == "failed"
    assert jobs.progress(claim) == "failed"


def test_a_sweep_asked_for_while_one_runs_makes_it_pass_again(jobs: JobStore) -> None:
    # Given a running sweep
    jobs.open("a", "sweep", {}, SWEEP, again=True)
    first = claimed(jobs, "a")
    jobs.progress(first, {"done": 5, "cursor": {"at": 5}})
    # When another is asked for, and the first comes to its end
    assert jobs.open("b", "sweep", {}, SWEEP, again=True) == "a"
    assert jobs.finish("a", "succeeded", first.token) == "again"
    # Then it is not over: the next run adds to what the first reported, and only its end is the end
    second = claimed(jobs, "a")
    assert (second.cursor, second.done) == ({"at": 5}, 5)
    assert jobs.finish("a", "succeeded", second.token) == "succeeded"


@pytest.mark.parametrize(("again", "running"), [(True, False), (False, True)])
def test_no_second_pass_for_a_sweep_that_has_not_begun_or_for_a_request_that_wants_none(
    jobs: JobStore, again: bool, running: bool
) -> None:
    jobs.open("a", "sweep", {}, SWEEP)
    if running:
        jobs.release(claimed(jobs, "a"))
    jobs.open("b", "sweep", {}, SWEEP, again=again)
    assert jobs.finish("a", "succeeded", ANY) == "succeeded"


def test_whoever_waits_is_woken_by_the_end(jobs: JobStore, settings: Settings) -> None:
    waiter, names = JobStore(settings.state(), settings.namespace, settings.job), iter("abc")

    def wait() -> None:
        name = next(names)
        jobs.open(name, "sweep", {}, None)
        ends = threading.Timer(0.1, jobs.finish, (name, "succeeded", ANY))
        ends.start()
        waiter.wait(name, 0.5)
        waiter.wait(name, 0.5)  # and so is everybody who comes later
        ends.join()

    within(0.4, wait)
    waiter.close()


@brief_locks
def test_a_job_without_a_sign_of_life_is_an_orphan_and_the_next_look_waits_twice_as_long(
    jobs: JobStore,
) -> None:
    jobs.open("a", "sweep", {}, SWEEP)
    claimed(jobs, "a")
    assert list(jobs.orphans()) == []
    looks = [
        wait_until(lambda: time.monotonic() if list(jobs.orphans()) == [("a", "sweep")] else 0)
        for _ in range(3)
    ]
    first, second = looks[1] - looks[0], looks[2] - looks[1]
    assert jobs.lock_ttl * 0.9 < first < jobs.lock_ttl * 1.8 < second


@brief_locks
def test_a_job_that_is_over_or_postponed_is_no_orphan(jobs: JobStore) -> None:
    for name in "abc":
        jobs.open(name, "warm", {}, {"keys": [name]})
    jobs.finish("a", "succeeded", ANY)
    jobs.postpone("b", 60, "the cache is away")
    assert wait_until(lambda: list(jobs.orphans())) == [("c", "warm")]
    status = jobs.status("b")
    assert status is not None
    assert status.error == "the cache is away"


def test_the_newest_jobs_are_listed_first(jobs: JobStore) -> None:
    for number, name in enumerate("abc"):
        jobs.open(name, "warm", {}, {"keys": [name]})
        wait_until(lambda n=number: time.time_ns() // 1_000_000 and len(jobs.recent(9)) == n + 1)  # type: ignore[misc]
        time.sleep(0.002)  # they are ordered by the server's milliseconds
    assert [status.id for status in jobs.recent(2)] == ["c", "b"]


def test_dead_jobs_are_listed_by_themselves_the_latest_first_and_kept_as_long_as_unfinished_ones(
    jobs: JobStore, settings: Settings, broker_server: str
) -> None:
    for name in "abc":
        jobs.open(name, "warm", {}, {"keys": [name]})
        jobs.finish(name, "failed", ANY, {"error": f"no coal for {name}"}, dead=name != "b")
        time.sleep(0.002)  # they are ordered by the server's milliseconds
    assert [(job.id, job.error) for job in jobs.dead(9)] == [("c", "no coal for c"), ("a", "no coal for a")]
    assert [job.id for job in jobs.dead(1)] == ["c"]
    with redis.Redis.from_url(broker_server) as client:
        kept = [client.ttl(keys.job(settings.namespace, name)) for name in "ab"]
    assert kept == pytest.approx([settings.job.ttl, settings.job.keep], abs=5)


def test_a_job_that_was_taken_back_leaves_nothing(
    jobs: JobStore, settings: Settings, broker_server: str
) -> None:
    jobs.open("a", "sweep", {}, SWEEP)
    jobs.forget("a", "sweep", SWEEP)
    with redis.Redis.from_url(broker_server) as client:
        assert list(client.scan_iter(f"{settings.namespace}:*")) == []


def test_every_key_on_the_state_server_ends_by_itself(
    jobs: JobStore, settings: Settings, broker_server: str
) -> None:
    jobs.open("a", "sweep", {}, SWEEP)
    jobs.progress(claimed(jobs, "a"), {"done": 1})
    jobs.open("b", "invalidate", {}, None)
    jobs.finish("b", "failed", ANY, dead=True)
    with redis.Redis.from_url(broker_server) as client:
        found = list(client.scan_iter(f"{settings.namespace}:*"))
        assert len(found) == 9
        assert [key for key in found if client.ttl(key) < 0] == []


def test_without_its_server_every_call_ends_soon_with_an_error_that_can_be_caught(namespace: str) -> None:
    store = JobStore("redis://127.0.0.1:1/0", namespace, JobSettings())

    def fails() -> None:
        with pytest.raises(StateUnavailable, match="ConnectionError"):
            store.status("a")

    within(1, fails)
    store.close()
