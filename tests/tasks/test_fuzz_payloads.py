"""Messages that no producer of this version sends, met by the real tasks on real servers.

Each ends in the work done, or in a clear error and a job that is listed as failed. Only arguments are hostile here: a
message that Celery itself cannot read is the worker's business.
"""

import json
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stoker.cache import ConfigError
from stoker.config import Settings
from stoker.tasks import InvalidArguments, names, send
from stoker.tasks.app import app
from stoker.tasks.errors import JobError
from stoker.tasks.job import JobStore
from tests.flow.conftest import Deployment, deployment, environment
from tests.fuzzing import thorough_too, tried
from tests.tasks.hostile import TASKS, client, queued, run, values
from tests.waiting import wait_until

__all__ = ["client", "deployment", "environment"]

FIELDS = [
    "version",
    "job_id",
    "tenant_id",
    "keys",
    "tags",
    "pattern",
    "whole_tenant",
    "again",
    "target_bytes",
]
fields = st.dictionaries(
    st.sampled_from(FIELDS) | st.text(max_size=8) | st.just("\udcff"), values, max_size=5
)


@thorough_too
def test_arguments_fit_or_are_refused_with_a_short_text_that_can_be_printed(thorough: bool) -> None:
    @tried(thorough, 150)
    @given(st.sampled_from(list(names.MODEL_OF)), fields)
    @example(names.INVALIDATE, {"pattern": "*", "tenant_id": ["a"]})
    @example(names.INVALIDATE, {"pattern": "*", "tenant_id": {"a": 1}})
    @example(names.WARM, {"keys": {"a": [["k"]]}})
    @example(names.WARM, {"keys": [""] * 1000})
    @example(names.EVICT, {"target_bytes": 10**5000})
    @example(names.EVICT, {"x" * 10_000: 1})
    def rule(task: str, message: dict[str, Any]) -> None:
        try:
            job_id, arguments = names.accept(task, message)
        except InvalidArguments as error:
            refusal = str(error)
        else:
            is_meant_the_same_wherever_it_is_read(task, message, job_id, arguments)
            return
        assert refusal.startswith(f"{task}: ")
        assert refusal.isprintable()
        assert len(refusal.encode()) < 2000

    rule()


def is_meant_the_same_wherever_it_is_read(
    task: str, message: dict[str, Any], job_id: str | None, arguments: names.Arguments | None
) -> None:
    assert job_id == message.get("job_id")
    assert job_id is not None or arguments is not None
    if arguments is not None:
        stored = json.loads(json.dumps(arguments.model_dump()))
        assert names.check(task, stored) == arguments


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


@thorough_too
def test_a_message_that_is_refused_by_a_worker_is_a_failed_job_that_is_listed(
    producer: Settings, jobs: JobStore, client: Any, thorough: bool
) -> None:
    @tried(thorough, 60)
    @given(st.sampled_from(TASKS), fields.filter(lambda message: "\udcff" not in message or len(message) > 1))
    @example(names.INVALIDATE, {"pattern": "user:*", "version": 2})
    @example(names.INVALIDATE, {"pattern": "user:*", "tenant_id": ["a"]})
    @example(names.SWEEP, {"\udcff": 1})
    @example(names.SWEEP, {"job_id": "\ud800"})
    def rule(task: str, message: dict[str, Any]) -> None:
        task_id = str(uuid4())
        if names.is_job_id(
            given := message.get("job_id")
        ):  # an example before this one may have had the same
            jobs.forget(given, names.kind(task), None)
        before = queued(client, producer)
        state, outcome = run(task, message, task_id)
        if not isinstance(outcome, InvalidArguments):
            if task == names.REBALANCE:  # there is no cluster here
                assert isinstance(outcome, JobError | ConfigError)
            else:
                assert state == "SUCCESS" or isinstance(outcome, JobError), outcome
            return
        assert state == "FAILURE"
        (job,) = (job for job in jobs.dead(10_000) if job.id in (task_id, message.get("job_id")))
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
    (names.RESHARD, {"pin": {"acme": -1}}),
    (names.REBALANCE, {"by": "luck"}),
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
    wait_until(lambda: deployment.waiting_messages() <= 1)  # the sweep that follows an invalidation
