"""What a task may be asked for: refused before it is sent, with a text that names field, value and remedy."""

import pickle
from typing import Any

import pytest

from stoker import tasks
from stoker.tasks import InvalidArguments, names, send
from stoker.tasks.errors import JobFailed, JobLost, NotSent, StateUnavailable


@pytest.mark.parametrize(
    ("task", "arguments", "told"),
    [
        (names.WARM, {"keys": []}, "keys: give 1 to 100,000 keys a job, not 0"),
        (names.WARM, {"keys": ["k"] * 100_001}, "not 100,001; send several jobs"),
        (names.WARM, {"keys": [""]}, "key '': must not be empty"),
        (names.WARM, {"keys": ["k" * 1025]}, "must be at most 1024 bytes"),
        (names.WARM, {"keys": {"": ["k"]}}, "tenant_id '': must not be empty"),
        (names.WARM, {"keys": {"a": ["k"]}, "tenant_id": "b"}, "leave it out when keys are given by tenant"),
        (names.WARM, {"keys": "user:1"}, "keys.list='user:1': Input should be a valid list"),
        (names.WARM, {"keys": ["k"], "batch": 3}, "batch=3: Extra inputs are not permitted"),
        (names.WARM, {"keys": ["k"], "version": 2}, "version=2: Input should be 1"),
        (names.INVALIDATE, {}, "name what to invalidate"),
        (names.INVALIDATE, {"pattern": "[a"}, "pattern '[a', position 0"),
        (names.INVALIDATE, {"pattern": ""}, "is empty; '*' names every key"),
        (names.INVALIDATE, {"tags": ["a\0"]}, "must be a str without NUL"),
        (names.INVALIDATE, {"tenant_id": ""}, "tenant_id '': must not be empty"),
        (names.INVALIDATE, {"whole_tenant": True}, "name the tenant"),
        (names.EVICT, {"target_bytes": -1}, "target_bytes=-1: Input should be greater than or equal to 0"),
        (names.REBALANCE, {"by": "size"}, "by='size': Input should be 'keys', 'bytes' or 'load'"),
        (names.REBALANCE, {"weights": {"a:1": -1.0}}, "Input should be greater than or equal to 0"),
        (names.REBALANCE, {"weights": {"a:1": float("nan")}}, "Input should be"),
    ],
)
def test_wrong_arguments_are_refused_with_the_reason(task: str, arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidArguments) as refused:
        names.check(task, arguments)
    assert str(refused.value).startswith(f"{task}: ")
    assert told in str(refused.value)


@pytest.mark.usefixtures("producer")
def test_they_are_refused_in_the_producer_however_it_sends() -> None:
    with pytest.raises(InvalidArguments):
        send.warm([])
    with pytest.raises(InvalidArguments):
        tasks.warm.delay(keys=[])
    with pytest.raises(InvalidArguments):
        tasks.warm.apply_async(kwargs={"keys": []})
    with pytest.raises(InvalidArguments, match="give keyword arguments"):
        tasks.warm.delay(["user:1"])


def test_requests_for_the_same_thing_have_the_same_target_and_invalidations_never() -> None:
    assert names.check(names.SWEEP, {"again": False}).target() == names.check(names.SWEEP, {}).target()
    same = [names.check(names.WARM, {"keys": ["a", "b"]}).target() for _ in range(2)]
    assert same[0] == same[1] != names.check(names.WARM, {"keys": ["a", "b"], "tenant_id": "t"}).target()
    assert names.check(names.INVALIDATE, {"pattern": "*"}).target() is None


@pytest.mark.parametrize(
    "error",
    [
        InvalidArguments("t", "p"),
        NotSent("t", "r"),
        StateUnavailable("r"),
        JobFailed("i", "r"),
        JobLost("i", "r"),
    ],
)
def test_errors_cross_process_borders(error: Exception) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
