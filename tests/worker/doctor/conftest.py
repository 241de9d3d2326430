"""Servers that these tests may break, and what the doctor says of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.tasks import runtime
from stoker.worker.doctor import nodes
from stoker.worker.embedded import Server, start_server
from stoker.worker.processes import Processes


@pytest.fixture(scope="session")
def processes() -> Iterator[Processes]:
    with Processes() as started:
        yield started


@pytest.fixture
def cache_server(processes: Processes) -> Iterator[Server]:
    """A server that a test may break."""
    started = start_server(processes, "cache")
    yield started
    processes.stop([started.child], 0)


@pytest.fixture
def broker_server(processes: Processes) -> Iterator[Server]:
    started = start_server(processes, "broker")
    yield started
    processes.stop([started.child], 0)


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    runtime.current().close()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is waited for who is not there."""
    monkeypatch.setattr(nodes, "ASK_FOR_S", 0)
