"""Cache, broker and state behind Sentinels: jobs are done, and after a fail-over they are done again."""

from collections.abc import Iterator

import pytest

from stoker.cache import Cache, CacheUnavailable
from stoker.tasks import JobLost, NotSent, StateUnavailable, send
from tests.flow.conftest import Deployment
from tests.sentinels import Group, sentinel_group
from tests.waiting import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def groups() -> Iterator[list[Group]]:
    with sentinel_group(down_after_s=1) as cache, sentinel_group(locked=True, down_after_s=1) as broker:
        yield [cache, broker]


@pytest.fixture
def cache_server(groups: list[Group]) -> str:
    return groups[0].url


@pytest.fixture
def broker_server(groups: list[Group]) -> str:
    return groups[1].url


def invalidated_by_a_job(app: Cache) -> bool:
    """Whether a job was sent, was done, and took effect."""
    try:
        app.set("k", 1)
        return send.invalidate_pattern("k*").wait(timeout=5).state == "succeeded" and app.get("k") is None
    except (CacheUnavailable, NotSent, StateUnavailable, JobLost, TimeoutError):
        return False


def test_jobs_go_on_after_the_primaries_were_killed(
    deployment: Deployment, other_cache: Cache, groups: list[Group]
) -> None:
    worker = deployment.worker()
    wait_until(lambda: invalidated_by_a_job(other_cache), 30)
    for group in groups:
        group.kill(0)
    wait_until(lambda: invalidated_by_a_job(other_cache), 60)
    assert worker.process.poll() is None
