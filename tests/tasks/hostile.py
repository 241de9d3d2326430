"""What tests of hostile messages and records share: values of every kind, and a task run as a worker would run it."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from hypothesis import strategies as st

from stoker.cache import Cache, loader
from stoker.config import Settings, open_cache
from stoker.tasks import names
from stoker.tasks.app import app

TASKS = (names.INVALIDATE, names.SWEEP, names.WARM, names.EVICT, names.RESHARD, names.REBALANCE)
GOOD: dict[str, dict[str, Any]] = {
    names.INVALIDATE: {"pattern": "user:*"},
    names.SWEEP: {},
    names.WARM: {"keys": ["fuzzed:1"]},
    names.EVICT: {"target_bytes": 2**40},
    names.RESHARD: {"num_shards": 4},
    names.REBALANCE: {"act": False},
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
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
)


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
