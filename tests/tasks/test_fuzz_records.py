"""Job records that no version of ours wrote, met by the real tasks, the reaper and whoever asks about a job.

A job whose record is damaged ends as failed and says by which field; it stops no other job and is not sent for ever;
and an invalidation is carried out or listed as failed.
"""

import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stoker import tasks
from stoker.cache import Cache, keys
from stoker.config import Settings
from stoker.tasks import JobHandle, JobStatus, names, send
from stoker.tasks.errors import JobError
from stoker.tasks.job import JobStore
from tests.fuzzing import thorough_too, tried
from tests.tasks.hostile import EDGES, GOOD, TASKS, cache, client, queued, run, values
from tests.waiting import wait_until


@pytest.fixture
def lock_ttl() -> float:
    """Here locks are waited for all the time."""
    return 0.5


__all__ = ["cache", "client"]

numbers = st.sampled_from([str(edge) for edge in EDGES]) | st.sampled_from(
    ["", "x", "1.5", "nan", "1e3", "\u0663", " 1"]
)
texts = st.one_of(
    numbers.map(str.encode),
    st.binary(max_size=40),
    values.map(lambda value: json.dumps(value).encode()),
    st.sampled_from(
        [b"{", b'{"report"', b"[" * 50_000, b'{"report": {}, "walk": {}}', b'{"version": 2}', b"9" * 5000]
    ),
)
NUMBERS = ("done", "total", "failed", "rate", "eta", "starts", "tries", "looks", "created_at", "updated_at")
damage = st.dictionaries(
    st.sampled_from(
        ["args", "cursor", "state", "target", "shared", "again", "abort", "report", "error", "more", *NUMBERS]
    ),
    texts | st.none(),  # None: the field is gone
    min_size=1,
    max_size=3,
)
ENOUGH = 4  # messages of one job, each with a run: more than a second pass and a hand-over take


def a_job(task: str, client: Any, settings: Settings, changed: dict[str, bytes | None]) -> JobHandle:
    """A job whose record was changed after it was sent."""
    job = JobHandle(str(uuid4()))
    store = JobStore(settings.state(), settings.namespace, settings.job)
    arguments = names.check(task, GOOD[task])
    store.open(job.id, names.kind(task), arguments.model_dump(), None)
    store.close()
    record = keys.job(settings.namespace, job.id)
    for name, value in changed.items():
        if value is None:
            client.hdel(record, name)
        else:
            client.hset(record, name, value)
    return job


@thorough_too
def test_a_job_whose_record_is_damaged_ends_and_its_end_is_listed(
    producer: Settings, jobs: JobStore, client: Any, thorough: bool
) -> None:
    @tried(thorough, 60)
    @given(st.sampled_from(TASKS), damage)
    @example(names.SWEEP, {"args": b"{"})
    @example(names.INVALIDATE, {"args": b"[1]"})
    @example(names.SWEEP, {"cursor": b"\xff"})
    @example(names.WARM, {"cursor": b'{"at": "x"}'})
    @example(names.WARM, {"starts": b"many"})
    @example(names.WARM, {"starts": b"9223372036854775807"})
    @example(names.EVICT, {"state": b"asleep"})
    @example(names.INVALIDATE, {"state": b"", "again": b"0"})
    @example(names.EVICT, {"target": None})
    @example(names.SWEEP, {"done": b"9" * 400, "tries": b"-9007199254740993"})
    @example(names.SWEEP, {"created_at": b"9" * 400, "report": b"[]", "total": b"many"})
    def rule(task: str, changed: dict[str, bytes | None]) -> None:
        job = a_job(task, client, producer, changed)
        for _ in range(ENOUGH):
            state, outcome = run(task, {"job_id": job.id, "version": 1}, job.id)
            assert state in ("SUCCESS", "IGNORED", "FAILURE")
            if changed.get("state", b"") is None:  # without a state there is no job
                assert isinstance(outcome, JobError)
                return
            if job.status().final:
                break
        ended = job.status()
        assert ended.final, ended
        assert ended in jobs.recent(5)
        assert bool(ended.error) or ended.state != "failed"
        assert "error" in changed or ended.error.isprintable()

    rule()


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"args": b"{"}, "args='{': must be a JSON object"),
        ({"args": b"[7]"}, "args='[7]': must be a JSON object"),
        ({"args": b'{"version": 2}'}, "version=2: Input should be 1"),
        ({"args": b'{"version": 1, "speed": 9007199254740992}'}, "speed=9007199254740992: Extra inputs"),
    ],
)
def test_a_damaged_field_is_named_and_the_job_is_dead(
    producer: Settings, jobs: JobStore, client: Any, task: str, changed: dict[str, bytes | None], told: str
) -> None:
    job = a_job(task, client, producer, changed)
    assert run(task, {"job_id": job.id, "version": 1}, job.id)[0] == "FAILURE"
    assert told in job.status().error
    assert jobs.dead(9) == [job.status()]
    assert list(jobs.orphans()) == []


@pytest.mark.parametrize("task", [names.SWEEP, names.WARM, names.EVICT])
@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"cursor": b"{"}, "cursor='{': must be a JSON object"),
        ({"done": b"many"}, "done='many': must be a whole number"),
        ({"tries": b"1e3"}, "tries='1e3': must be a whole number"),
        ({"starts": b"\xff"}, "starts"),
        ({"state": b"asleep"}, "state"),
    ],
)
def test_a_damaged_field_that_only_steps_need_is_named(
    producer: Settings, client: Any, task: str, changed: dict[str, bytes | None], told: str
) -> None:
    job = a_job(task, client, producer, changed)
    run(task, {"job_id": job.id, "version": 1}, job.id)
    status = job.status()
    assert status.state == "failed"
    assert told in status.error


@pytest.mark.parametrize("task", [names.SWEEP, names.EVICT])
def test_a_cursor_of_another_shape_is_shown(producer: Settings, client: Any, task: str) -> None:
    job = a_job(task, client, producer, {"cursor": b'{"report": {"swept": 1}, "walk": null}'})
    run(task, {"job_id": job.id, "version": 1}, job.id)
    assert "it went on from cursor={'report': {'swept': 1}" in job.status().error


@thorough_too
def test_an_invalidation_whose_record_is_damaged_is_carried_out_or_listed_as_failed(
    producer: Settings, jobs: JobStore, client: Any, cache: Cache, thorough: bool
) -> None:
    @tried(thorough, 40)
    @given(damage, st.booleans())
    @example({"args": b"{"}, True)
    @example({"starts": b"x"}, True)
    @example({"state": b"asleep"}, True)
    def rule(changed: dict[str, bytes | None], carried: bool) -> None:
        cache.set("user:1", 1)
        job = a_job(names.INVALIDATE, client, producer, changed)
        message = {"job_id": job.id, "version": 1, **(GOOD[names.INVALIDATE] if carried else {})}
        run(names.INVALIDATE, message, job.id)
        if cache.get("user:1") is None:
            return
        if changed.get("state", b"") is None and not carried:
            return  # the record is lost, and with it what it held: the task has failed
        ended = jobs.status(job.id)
        assert ended is not None
        assert ended.final
        assert ended.state != "succeeded"
        if carried and not (changed.keys() & {"state", "starts"}):
            pytest.fail("what the message carries needs no record")

    rule()


OTHERS: dict[str, Callable[[Any, str], object]] = {
    "list": lambda client, name: client.rpush(name, "x"),
    "string": lambda client, name: client.set(name, "x"),
    "zset": lambda client, name: client.zadd(name, {"x": 1}),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_something_else_under_a_records_name_stops_no_other_job(
    producer: Settings, jobs: JobStore, client: Any, cache: Cache, kind: str
) -> None:
    """Neither its listing, nor the reaper, nor a job of the same target."""
    cache.set("user:1", 1)
    bad, good = send.sweep(), send.warm(["fuzzed:1"])
    name = keys.job(producer.namespace, bad.id)
    client.delete(name)
    OTHERS[kind](client, name)
    client.expire(name, 60)
    assert jobs.recent(9) == [good.status()]
    assert jobs.status(bad.id) is None
    assert run(names.SWEEP, {"job_id": bad.id, "version": 1}, bad.id)[0] == "FAILURE"
    message = {"job_id": bad.id, "version": 1, **GOOD[names.INVALIDATE]}
    assert run(names.INVALIDATE, message, bad.id)[0] == "SUCCESS"
    assert cache.get("user:1") is None
    assert wait_until(lambda: list(jobs.orphans())) == [(good.id, "warm")]
    assert client.zscore(keys.jobs_unfinished(producer.namespace), bad.id) is None
    assert send.sweep() != bad


def test_a_kind_that_this_version_does_not_know_is_not_sent_and_stops_no_other_job(
    producer: Settings, jobs: JobStore, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    jobs.open("later", "preheat", {}, None)
    job = send.warm(["fuzzed:1"])
    before = queued(client, producer)
    wait_until(lambda: tasks.reap.apply().result == {"sent": 1})
    assert queued(client, producer) == before + 1
    assert "job later is of kind 'preheat'" in caplog.text
    assert run(names.WARM, {"job_id": job.id, "version": 1}, job.id)[0] == "SUCCESS"


@pytest.mark.parametrize("looks", [b"x", b"\xff", b"1.5", b"9223372036854775807", b"-9223372036854775808"])
def test_the_reaper_gets_by_any_count_of_its_looks(producer: Settings, client: Any, looks: bytes) -> None:
    job = send.sweep()
    client.hset(keys.job(producer.namespace, job.id), "looks", looks)
    wait_until(lambda: tasks.reap.apply().result == {"sent": 1})
    assert tasks.reap.apply().result == {"sent": 0}
    assert run(names.SWEEP, {"job_id": job.id, "version": 1}, job.id)[0] == "SUCCESS"


@pytest.mark.parametrize("ttl_ms", [None, 2**53])
@pytest.mark.parametrize("kind", ["string", "list"])
def test_a_lock_that_no_run_has_left_holds_a_job_up_for_the_life_of_a_lock_at_most(
    producer: Settings, client: Any, ttl_ms: int | None, kind: str
) -> None:
    job = send.sweep()
    lock = keys.job_lock(producer.namespace, "sweep")
    if kind == "string":
        client.set(lock, "x", px=ttl_ms)
    else:
        client.rpush(lock, "x")
        if ttl_ms:
            client.pexpire(lock, ttl_ms)
    state, _ = run(names.SWEEP, {"job_id": job.id, "version": 1}, job.id)
    if ttl_ms is None:
        assert state == "SUCCESS"
    else:
        assert state == "IGNORED"
        client.delete(lock)
        assert run(names.SWEEP, {"job_id": job.id, "version": 1}, job.id)[0] == "SUCCESS"


@thorough_too
def test_any_record_can_be_asked_about(
    producer: Settings, jobs: JobStore, client: Any, thorough: bool
) -> None:
    every = st.sampled_from(["kind", "state", "finished_at", "started_at", "error", "report", *NUMBERS])

    @tried(thorough, 50)
    @given(st.dictionaries(every, texts, min_size=1, max_size=6))
    @example({"finished_at": b"253402300800000", "rate": b"inf", "eta": b"nan"})
    def rule(changed: dict[str, bytes]) -> None:
        job = a_job(names.SWEEP, client, producer, {**changed})
        status = job.status()
        assert status in jobs.recent(3)
        assert isinstance(status, JobStatus)
        assert json.loads(json.dumps(status.report)) == status.report or "NaN" in json.dumps(status.report)
        job.abort()
        assert job.status().final

    rule()
