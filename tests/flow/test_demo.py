"""`stoker demo` finds nothing stale, and would find it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

_DEMO = [sys.executable, "-c", "from stoker.worker.cli import main; main()", "demo"]


def run(directory: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*_DEMO, *arguments], capture_output=True, text=True, cwd=directory, timeout=110, check=False
    )


def figure(output: str, name: str) -> int:
    found = re.search(rf"^{name} +([\d,]+)", output, re.MULTILINE)
    assert found is not None, output
    return int(found[1].replace(",", ""))


@pytest.mark.slow
@pytest.mark.soak
def test_the_demo_warms_real_data_and_reads_nothing_stale(tmp_path: Path) -> None:
    # Given a user whose own settings lead elsewhere
    (tmp_path / ".env").write_text("STOKER_CACHE_URL=redis://127.0.0.1:1/0\nSTOKER_NAMESPACE=mine\n")
    # When the demo runs, then it keeps to its own servers
    ended = run(tmp_path, "--seconds", "3")
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout
    assert figure(ended.stdout, "keys warmed") > 28_000
    assert figure(ended.stdout, "reads checked") > 100
    assert figure(ended.stdout, "stale reads") == 0


@pytest.mark.slow
def test_without_the_lease_the_demo_finds_stale_reads_and_fails(tmp_path: Path) -> None:
    ended = run(tmp_path, "--seconds", "10", "--break", "lease")
    assert ended.returncode == 1, ended.stdout
    assert figure(ended.stdout, "stale reads") > 0
    assert "was acknowledged" in ended.stdout
