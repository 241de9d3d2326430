"""What every test may use: two servers, a namespace of its own, and an environment without settings of ours.

The servers are embedded Valkeys, one for the cache and one for the broker, started once a session. With
STOKER_TEST_REDIS_URL both are databases of the server at that address: the one it names, and the next.
"""

import itertools
import os
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from stoker.worker.embedded import embedded_server
from stoker.worker.embedded_cluster import EmbeddedCluster, embedded_cluster

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of the machine that runs the tests have no place in them."""
    for name in list(os.environ):
        if name.startswith(("STOKER_", "CELERY_", "FLOWER_")) and not name.startswith("STOKER_TEST_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def cache_server() -> Iterator[str]:
    """URL of a cache server for the whole session."""
    if given := os.environ.get("STOKER_TEST_REDIS_URL"):
        yield given
        return
    with embedded_server("cache") as server:
        yield server.url


@pytest.fixture(scope="session")
def broker_server() -> Iterator[str]:
    """URL of a broker for the whole session; also holds the jobs."""
    if given := os.environ.get("STOKER_TEST_REDIS_URL"):
        parts = urlsplit(given)
        yield parts._replace(path=f"/{int(parts.path.strip('/') or 0) + 1}").geturl()
        return
    with embedded_server("broker") as server:
        yield server.url


@pytest.fixture(scope="session")
def cache_cluster() -> Iterator[EmbeddedCluster]:
    """A cluster of three nodes for the whole session. Tests that harm one start their own."""
    with embedded_cluster() as cluster:
        yield cluster


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test uses."""
    return f"test-{os.getpid()}-{next(_numbers)}"
