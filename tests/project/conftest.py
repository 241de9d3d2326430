"""The wheel that the project's tests install and look into: built once, or named by `STOKER_TEST_WHEEL`."""

import os
from pathlib import Path

import pytest

from tests.project.distribution import ROOT, pip


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if ready := os.environ.get("STOKER_TEST_WHEEL"):
        return Path(ready)
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
    [built] = folder.glob("stoker-*.whl")
    return built
