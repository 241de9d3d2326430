"""A reader is served the old value; a worker loads the new one."""

import os

import pytest

from stoker.config import open_cache
from stoker.tasks import hooks
from tests.flow import loaders  # noqa: F401 - this process loads first
from tests.flow.conftest import Deployment
from tests.waiting import wait_until


@pytest.fixture
def environment(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A lease so long that no refresh is asked for again while the worker is at it."""
    monkeypatch.setenv("STOKER_LEASE", "30")
    return {**environment, "STOKER_LEASE": "30"}


def test_a_worker_refreshes_what_a_reader_found_stale(deployment: Deployment) -> None:
    deployment.worker()
    with open_cache(deployment.settings, hooks) as cache:
        first = cache.get_or_load("fresh:1", tenant_id="acme")
        assert first["pid"] == os.getpid()
        wait_until(lambda: cache.get_or_load("fresh:1", tenant_id="acme") != first)
        assert cache.get("fresh:1", "acme")["pid"] != os.getpid()
        assert cache.stats().misses == 1
        assert cache.stats().lost_refreshes == 0
