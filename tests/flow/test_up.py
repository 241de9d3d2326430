"""`stoker up` as a user runs it: one command starts all, and however it ends, nothing stays behind."""

import base64
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stoker.config import Settings
from stoker.tasks import configure, runtime, send
from stoker.worker.doctor.check import Severity
from stoker.worker.doctor.run import diagnose
from tests.waiting import wait_until
from tests.worker.alive import alive, descendants

_STOKER = [sys.executable, "-c", "from stoker.worker.cli import main; main()"]


@dataclass
class Up:
    """A running `stoker up`, what it printed, and the processes that it started."""

    process: "subprocess.Popen[str]"
    printed: str
    children: set[int]

    def said(self, pattern: str) -> str:
        found = re.search(pattern, self.printed)
        assert found is not None, self.printed
        return found[1]

    @property
    def directory(self) -> Path:
        return Path(self.said(r"logs +(\S+)"))

    def is_gone(self) -> bool:
        """Whether every process has ended and every temporary file is removed."""
        return not any(alive(pid) for pid in self.children) and not any(self.directory.parent.iterdir())


def start(directory: Path, *options: str) -> Up:
    """Run it with a temporary directory of its own, and return when it says that all is ready."""
    process = subprocess.Popen(
        [*_STOKER, "up", *options],
        env={**os.environ, "TMPDIR": str(directory)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    printed = ""
    while "Ctrl-C stops everything." not in printed:
        line = process.stdout.readline()
        if not line:
            raise AssertionError(f"{printed}{process.communicate()[1]}")
        printed += line
    return Up(process, printed, descendants(process.pid))


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    running = start(tmp_path)
    yield running
    running.process.kill()
    running.process.communicate()


def fetch(url: str, login: str = "") -> int:
    """The HTTP status of a page."""
    headers = {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"} if login else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_up_runs_the_whole_of_it_and_ctrl_c_leaves_nothing_behind(
    up: Up, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an app that took over the printed variables
    for name in ("STOKER_CACHE_URL", "STOKER_BROKER_URL"):
        monkeypatch.setenv(name, up.said(f"export {name}=(.+)"))
    configure(Settings())
    cache = runtime.current().cache
    cache.set("user:1", "Ada", tenant_id="acme")
    # When it asks for an invalidation
    send.invalidate_pattern("user:*", tenant_id="acme").wait(timeout=60)
    # Then the worker did it, and Flower shows itself to those who have the password
    assert cache.get("user:1", tenant_id="acme") is None
    flower, password = up.said(r"Flower +(\S+)"), up.said(r"password (\S+)")
    assert fetch(f"{flower}/workers") == 401
    assert fetch(f"{flower}/workers", f"stoker:{password}") == 200
    # And to the doctor, who is told of it
    for name in ("STOKER_FLOWER__PORT", "STOKER_FLOWER__PASSWORD"):
        monkeypatch.setenv(name, up.said(f"export {name}=(.+)"))
    [finding] = diagnose(Settings(), ["flower"])
    assert finding.severity is Severity.OK, finding
    runtime.current().close()
    # And Ctrl-C ends it
    up.process.send_signal(signal.SIGINT)
    output, errors = up.process.communicate(timeout=60)
    assert (up.process.returncode, output, errors) == (0, "Stopped.\n", "")
    assert len(up.children) >= 6
    assert up.is_gone()


@pytest.mark.slow
def test_the_cache_may_be_on_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = start(tmp_path, "--cluster", "3")
    try:
        for name in ("STOKER_CACHE_URL", "STOKER_CACHE_CLUSTER", "STOKER_BROKER_URL"):
            monkeypatch.setenv(name, running.said(f"export {name}=(.+)"))
        configure(Settings())
        cache = runtime.current().cache
        values = {f"user:{n}": n for n in range(100)}
        cache.set_many(values, tenant_id="acme")
        assert len({cache.explain(key, "acme")["shard"] for key in values}) > 30
        send.invalidate_pattern("user:*", tenant_id="acme").wait(timeout=60)
        assert cache.get_many(values, tenant_id="acme") == {}
        send.sweep().wait(timeout=60)
        runtime.current().close()
        running.process.send_signal(signal.SIGINT)
        output, errors = running.process.communicate(timeout=60)
        assert (running.process.returncode, output, errors) == (0, "Stopped.\n", "")
        assert running.is_gone()
    finally:
        running.process.kill()
        running.process.communicate()


def test_a_killed_up_leaves_no_process_and_no_directory(up: Up) -> None:
    os.kill(up.process.pid, signal.SIGKILL)
    wait_until(up.is_gone, within=20, describe=lambda: f"{up.children} in {up.directory}")


def test_a_part_that_cannot_run_stops_all_and_tells_why(tmp_path: Path) -> None:
    ended = subprocess.run(
        [*_STOKER, "up"],
        env={**os.environ, "STOKER_LOADERS": "no.such.module", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert ended.returncode == 1
    assert "worker ended with exit code 1" in ended.stderr
    assert "STOKER_LOADERS: 'no.such.module' cannot be imported" in ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_part_that_is_killed_later_stops_all(up: Up) -> None:
    # When beat, or any other part, is killed
    os.kill(beat_of(up), signal.SIGKILL)
    _, errors = up.process.communicate(timeout=60)
    # Then the command ends with the reason
    assert up.process.returncode == 1
    assert "beat ended with signal SIGKILL" in errors
    assert up.is_gone()


def beat_of(up: Up) -> int:
    for pid in up.children:
        command = subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True).stdout
        if " beat " in command and "celery" in command:
            return pid
    raise AssertionError("no beat")


@pytest.mark.slow
def test_servers_that_were_given_are_used_and_left_alone(
    cache_server: str, broker_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STOKER_CACHE_URL", cache_server)
    monkeypatch.setenv("STOKER_BROKER_URL", broker_server)
    monkeypatch.setenv("STOKER_FLOWER__PASSWORD", "coal")
    running = start(tmp_path)
    try:
        assert re.findall(r"export (\w+)=", running.printed) == ["STOKER_FLOWER__PORT"]
        assert running.said(r"cache +(\S+)") == cache_server
    finally:
        running.process.send_signal(signal.SIGTERM)
        running.process.communicate(timeout=60)
    assert running.process.returncode == 0
    assert running.is_gone()
