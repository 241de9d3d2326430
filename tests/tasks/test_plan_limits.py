"""The limits of a plan bound its runs, whatever the loaders of its keys allow."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from stoker.cache import LoadKey, loader
from stoker.config import Settings
from stoker.tasks import configure, plan_changes, runtime, send
from tests.tasks.planning import run
from tests.waiting import wait_until

_lock = threading.Lock()
_under_way = 0
_most = 0
_awaited = 1
"""As many at once as a load waits for."""


@contextmanager
def counted() -> Iterator[None]:
    global _under_way, _most
    with _lock:
        _under_way += 1
        _most = max(_most, _under_way)
    try:
        yield
    finally:
        with _lock:
            _under_way -= 1


@loader("bounded:{number}", many=True)
def _load(keys: list[LoadKey]) -> dict[str, int]:
    with counted():
        wait_until(lambda: _most >= _awaited)
        time.sleep(0.02)  # so long that another would be seen beside it
        return {key.key: 1 for key in keys}


@pytest.fixture
def here(settings: Settings) -> Iterator[runtime.Runtime]:
    """Batches of ten keys, so that there are several."""
    configure(settings.model_copy(update={"job": settings.job.model_copy(update={"batch": 10})}))
    yield runtime.current()
    runtime.current().close()


@pytest.mark.parametrize(("limit", "most"), [({"concurrency": 1}, {1}), ({}, {2, 3, 4, 5, 6})])
def test_no_more_batches_of_a_plan_are_loaded_at_once_than_it_allows(
    here: runtime.Runtime, limit: dict[str, int], most: set[int]
) -> None:
    global _most, _awaited
    _most, _awaited = 0, min(most)
    plan_changes.add(here.plans, "a", {"keys": [f"bounded:{number}" for number in range(60)], **limit})
    assert run(send.warm_plan("a").id) == "SUCCESS"
    assert _most in most


def test_a_plan_loads_no_more_keys_a_second_than_it_allows(here: runtime.Runtime) -> None:
    global _awaited
    _awaited = 1
    plan_changes.add(here.plans, "a", {"keys": [f"bounded:{number}" for number in range(60)], "rate": 100.0})
    began = time.monotonic()
    job = send.warm_plan("a")
    assert run(job.id) == "SUCCESS"
    assert job.status().report["written"] == 60
    assert time.monotonic() - began >= (60 - 25) / 100  # a quarter of a second's keys may come at once
