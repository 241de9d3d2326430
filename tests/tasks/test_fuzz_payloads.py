"""Messages and job records that no producer of this version wrote, met by the real tasks on real servers.

Each ends in a clear error, in a job that is listed as failed, or in the work done; never in another exception, in a
message that is sent for ever, or in an invalidation of which nobody hears.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st

from stoker import tasks
from stoker.cache import Cache, keys, loader
from stoker.config import Settings, open_cache
from stoker.tasks import InvalidArguments, JobHandle, JobStatus, names, send
from stoker.tasks.app import app
from stoker.tasks.errors import JobError, TaskError
from stoker.tasks.job import JobStore
from tests.flow.conftest import Deployment, deployment, environment
from tests.fuzzing import thorough_too, tried
from tests.waiting import wait_until

__all__ = ["deployment", "environment"]

TASKS = (names.INVALIDATE, names.SWEEP, names.WARM, names.EVICT)
GOOD: dict[str, dict[str, Any]] = {
    names.INVALIDATE: {"pattern": "user:*"},
    names.SWEEP: {},
    names.WARM: {"keys": ["fuzzed:1"]},
    names.EVICT: {"target_bytes": 2**40},
}
EDGES = (0, -1, 1, 2**31, 2**53 - 1, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30, 10**400)


@loader("fuzzed:{number}")
def _load(number: int) -> int:
    return number


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(EDGES),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["", "*", "[", "user:*", "\0", "a\0b", "\ud800", "x" * 2000, "1", "true"]),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
)
FIELDS = ["version", "job_id", "tenant_id", "keys", "tags", "pattern", "whole_tenant", "again", "target_bytes"]
fields = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=8) | st.just("\udcff"), values, max_size=5)


# -- messages ---------------------------------------------------------------------------------------------------


@thorough_too
def test_arguments_fit_or_are_refused_with_a_short_text_that_can_be_printed(thorough: bool) -> None:
    @tried(thorough, 200)
    @given(st.sampled_from(list(names.MODEL_OF)), fields)
    @example(names.INVALIDATE, {"pattern": "*", "tenant_id": ["a"]})
    @example(names.INVALIDATE, {"pattern": "*", "tenant_id": {"a": 1}})
    @example(names.WARM, {"keys": {"a": [["k"]]}})
    @example(names.WARM, {"keys": [""] * 1000})
    @example(names.EVICT, {"target_bytes": 10**5000})
    @example(names.EVICT, {"x" * 10_000: 1})
    def rule(task: str, message: dict[str, Any]) -> None:
        refusal = None
        try:
            job_id, arguments = names.accept(task, message)
        except InvalidArguments as error:
            refusal = str(error)
        if refusal is not None:
            assert refusal.startswith(f"{task}: ")
            assert refusal.isprintable()
            assert len(refusal.encode()) < 2000
            return
        assert arguments is not None or job_id == message["job_id"]
        if arguments is not None:
            stored = json.loads(json.dumps(arguments.model_dump()))
            assert names.check(task, stored) == arguments  # it means the same wherever it is read

    rule()


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ({"job_id": "a", "version": 2}, "version=2: Input should be 1"),
        ({"job_id": "a", "version": "1"}, "version='1': Input should be 1"),
        ({"job_id": 7}, "job_id=7: Input should be a valid string"),
        ({"job_id": ["a"], "pattern": "*"}, "job_id=['a']: Input should be a valid string"),
        ({"job_id": ""}, "job_id='': String should have at least 1 character"),
        ({"job_id": "j" * 256}, "String should have at most 255 characters"),
        ({"job_id": None, "pattern": "*"}, "job_id=None: Input should be a valid string"),
        ({"pattern": "*", "tenant_id": ["a"]}, "tenant_id=['a']: Input should be a valid string"),
        ({"pattern": "*", "tenant_id": 2**53}, "tenant_id=9007199254740992: Input should be a valid string"),
        ({"pattern": "*", "version": 2**53}, "version=9007199254740992: Input should be 1"),
        ({f"field{n}": n for n in range(9)}, "field4=4: Extra inputs are not permitted; and 4 more"),
    ],
)
def test_a_message_that_is_refused_names_the_field_and_its_value(message: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidArguments) as refused:
        names.accept(names.INVALIDATE, message)
    assert told in str(refused.value)


@pytest.fixture
def cache(settings: Settings) -> Iterator[Cache]:
    with open_cache(settings) as opened:
        yield opened


@pytest.fixture
def client(broker_server: str) -> Iterator[Any]:
    with redis.Redis.from_url(broker_server) as plain:
        yield plain


def run(task: str, message: dict[str, Any], job_id: str) -> tuple[str, Any]:
    """Run a task here, as a worker that got this message would; returns Celery's state and what came of it."""
    result = app.tasks[task].apply(kwargs=message, task_id=job_id)
    return str(result.state), result.result


def queued(client: Any, settings: Settings) -> int:
    return sum(client.llen(names.queue(settings.namespace, queue)) for queue in names.QUEUES)


@thorough_too
def test_a_message_that_is_refused_by_a_worker_is_a_failed_job_that_is_listed(
    producer: Settings, jobs: JobStore, client: Any, thorough: bool
) -> None:
    @tried(thorough, 60)
    @given(st.sampled_from(TASKS), fields.filter(lambda message: "\udcff" not in message or len(message) > 1))
    @example(names.INVALIDATE, {"pattern": "user:*", "version": 2})
    @example(names.INVALIDATE, {"pattern": "user:*", "tenant_id": ["a"]})
    @example(names.SWEEP, {"\udcff": 1})
    def rule(task: str, message: dict[str, Any]) -> None:
        task_id = str(uuid4())
        before = queued(client, producer)
        state, outcome = run(task, message, task_id)
        if not isinstance(outcome, InvalidArguments):
            assert state == "SUCCESS" or isinstance(outcome, JobError), outcome
            return
        assert state == "FAILURE"
        (job,) = (job for job in jobs.dead(20) if job.id in (task_id, message.get("job_id")))
        assert (job.state, job.kind, job.error) == ("failed", names.kind(task), str(outcome)[:1000])
        assert queued(client, producer) == before  # nothing is sent for it again

    rule()


HOSTILE: tuple[tuple[str, dict[str, Any]], ...] = (
    (names.INVALIDATE, {}),
    (names.INVALIDATE, {"pattern": "user:*", "version": 2}),
    (names.INVALIDATE, {"pattern": "user:*", "tenant_id": ["acme"]}),
    (names.INVALIDATE, {"pattern": "user:[", "job_id": "theirs"}),
    (names.INVALIDATE, {"keys": "user:1"}),
    (names.INVALIDATE, {"tags": [["t"]]}),
    (names.WARM, {"keys": {"acme": {"a": 1}}}),
    (names.WARM, {"keys": [2**53, None]}),
    (names.SWEEP, {"again": "yes"}),
    (names.SWEEP, {"\ud800": 1}),
    (names.EVICT, {"target_bytes": 2**63}),
    (names.EVICT, {"version": 1, "job_id": 7}),
)


def test_a_real_worker_lists_what_it_refuses_and_goes_on(deployment: Deployment) -> None:
    worker = deployment.worker()
    sent = [app.send_task(task, kwargs=message, task_id=str(uuid4())).id for task, message in HOSTILE]
    good = send.invalidate_pattern("user:*")
    assert good.wait(timeout=20).state == "succeeded"
    found = wait_until(lambda: d if len(d := deployment.jobs.dead(99)) == len(HOSTILE) else None)
    assert {job.id for job in found} == {*sent, "theirs"} - {sent[3]}
    assert {job.error.partition(": ")[0] for job in found} == set(TASKS)
    assert worker.process.poll() is None
    assert deployment.waiting_messages() <= 1  # the sweep that follows an invalidation


# -- records ----------------------------------------------------------------------------------------------------

numbers = st.sampled_from([str(edge) for edge in EDGES]) | st.sampled_from(["", "x", "1.5", "nan", "1e3", "\u0663", " 1"])
texts = st.one_of(
    numbers.map(str.encode),
    st.binary(max_size=40),
    values.map(lambda value: json.dumps(value).encode()),
    st.sampled_from([b"{", b'{"report"', b"[" * 50_000, b'{"report": {}, "walk": {}}', b'{"version": 2}', b"9" * 5000]),
)
NUMBERS = ("done", "total", "failed", "rate", "eta", "starts", "tries", "looks", "created_at", "updated_at")
damage = st.dictionaries(
    st.sampled_from(["args", "cursor", "state", "target", "shared", "again", "abort", "report", "error", "more", *NUMBERS]),
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
    @tried(thorough, 120)
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
        ({"cursor": b'{"report": {"swept": 1}, "walk": null}'}, "it went on from cursor={'report': {'swept': 1}"),
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


@thorough_too
def test_an_invalidation_whose_record_is_damaged_is_carried_out_or_listed_as_failed(
    producer: Settings, jobs: JobStore, client: Any, cache: Cache, thorough: bool
) -> None:
    @tried(thorough, 80)
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


@pytest.mark.parametrize("kind", ["list", "string", "zset"])
def test_something_else_under_a_records_name_stops_no_other_job(
    producer: Settings, jobs: JobStore, client: Any, cache: Cache, kind: str
) -> None:
    """Neither its listing, nor the reaper, nor a job of the same target."""
    cache.set("user:1", 1)
    bad, good = send.sweep(), send.warm(["fuzzed:1"])
    name = keys.job(producer.namespace, bad.id)
    client.delete(name)
    {"list": client.rpush, "string": client.set, "zset": lambda name, value: client.zadd(name, {value: 1})}[kind](name, "x")
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
def test_the_reaper_gets_by_any_count_of_its_looks(
    producer: Settings, jobs: JobStore, client: Any, looks: bytes
) -> None:
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
def test_any_record_can_be_asked_about(producer: Settings, jobs: JobStore, client: Any, thorough: bool) -> None:
    every = st.sampled_from(["kind", "state", "finished_at", "started_at", "error", "report", *NUMBERS])

    @tried(thorough, 100)
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
