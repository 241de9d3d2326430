"""A producer's process: the settings of this test are in force, and its jobs are on the broker's server."""

from collections.abc import Iterator

import pytest

from stoker.config import JobSettings, Settings
from stoker.tasks import configure, plans, rules, runtime
from stoker.tasks.job import JobStore
from tests.leaks import nothing_is_kept_for_ever

__all__ = ["nothing_is_kept_for_ever"]

brief_locks = pytest.mark.parametrize("lock_ttl", [1.0])
"""For a test that waits for the end of a lock, or keeps one beyond its first life."""


@pytest.fixture
def lock_ttl() -> float:
    """Seconds: more than any test lasts, so that no lock ends because this machine is busy."""
    return 300.0


@pytest.fixture
def settings(cache_server: str, broker_server: str, namespace: str, lock_ttl: float) -> Settings:
    return Settings(
        cache_url=cache_server,
        broker_url=broker_server,
        namespace=namespace,
        job=JobSettings(lock_ttl=lock_ttl),
    )


@pytest.fixture
def jobs(settings: Settings) -> Iterator[JobStore]:
    store = JobStore(settings.state(), settings.namespace, settings.job)
    yield store
    store.close()


@pytest.fixture
def producer(settings: Settings) -> Iterator[Settings]:
    """This process sends with the test's settings."""
    configure(settings)
    yield settings
    runtime.current().close()


@pytest.fixture
def here(producer: Settings) -> runtime.Runtime:
    """What this process's tasks share."""
    assert producer
    return runtime.current()


@pytest.fixture(autouse=True)
def _plans_of_one_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "_registered", {})


@pytest.fixture(autouse=True)
def _rules_of_one_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "_registered", {})
