"""What an operator has around him: an empty directory, and variables that name the servers and a namespace."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.config import Settings
from stoker.tasks import runtime
from stoker.worker.app import make_app


@pytest.fixture
def operator(
    cache_server: str, broker_server: str, namespace: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[pytest.MonkeyPatch]:
    """His surroundings, in this process; what it yields changes them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STOKER_CACHE_URL", cache_server)
    monkeypatch.setenv("STOKER_BROKER_URL", broker_server)
    monkeypatch.setenv("STOKER_NAMESPACE", namespace)
    make_app(Settings())
    yield monkeypatch
    runtime.current().close()
