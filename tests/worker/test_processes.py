"""Nothing outlives the program that started it, however that program ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stoker.worker.processes import ChildEnded, NotReady, Processes
from tests.waiting import wait_until
from tests.worker.alive import alive

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]
DEAF = [
    sys.executable,
    "-u",
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf'); time.sleep(600)",
]


def run_program(body: str) -> tuple["subprocess.Popen[str]", list[str]]:
    """Start a program that prints one line; return it and the words of that line."""
    program = subprocess.Popen([sys.executable, "-c", body], stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    return program, program.stdout.readline().split()


def kill(program: "subprocess.Popen[str]") -> None:
    program.kill()
    program.wait(10)
    assert program.stdout is not None
    program.stdout.close()


def test_closing_ends_the_processes_and_removes_the_directory() -> None:
    with Processes() as processes:
        child = processes.start("sleeper", SLEEPER)
        assert alive(child.pid)
    assert child.process.returncode == -signal.SIGTERM
    assert not processes.directory.exists()


def test_a_process_that_ignores_sigterm_is_killed_when_its_grace_is_over() -> None:
    with Processes() as processes:
        child = processes.start("deaf", DEAF)
        processes.wait_until(lambda: "deaf" in child.tail(), child, within_s=10)
        processes.stop([child], grace_s=0.1)
        assert child.process.returncode == -signal.SIGKILL


def test_temporary_files_of_a_process_go_with_the_directory() -> None:
    with Processes() as processes:
        child = processes.start(
            "short", [sys.executable, "-c", "import tempfile; print(tempfile.gettempdir())"]
        )
        processes.join([child], within_s=10)
        assert child.tail() == str(processes.directory)


def test_a_second_ctrl_c_ends_the_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a process that will not end by itself for a minute
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    processes = Processes(grace_s=60)
    child = processes.start("deaf", DEAF)
    processes.wait_until(lambda: "deaf" in child.tail(), child, within_s=10)
    # When the wait for it is interrupted
    monkeypatch.setattr(processes, "stop", interrupted)
    with pytest.raises(KeyboardInterrupt):
        processes.close()
    # Then it is killed
    assert child.process.returncode == -signal.SIGKILL
    assert not processes.directory.exists()


def test_a_process_that_ends_by_itself_is_reported_with_the_end_of_its_log() -> None:
    with Processes() as processes:
        child = processes.start("short", ["/bin/sh", "-c", "echo first; echo why >&2; exit 3"])
        with pytest.raises(ChildEnded, match=r"short ended with exit code 3(.|\n)*first\nwhy") as ended:
            processes.wait_until(lambda: False, child, within_s=10)
    assert (ended.value.name, ended.value.code) == ("short", 3)


def test_waiting_for_readiness_has_a_deadline() -> None:
    with Processes() as processes:
        child = processes.start("sleeper", SLEEPER)
        with pytest.raises(NotReady, match=r"sleeper was not ready after 0.1 s"):
            processes.wait_until(lambda: False, child, within_s=0.1)


def test_a_killed_program_leaves_no_process_and_no_directory() -> None:
    program, (directory, *pids) = run_program("""
import time
from stoker.worker.processes import Processes
processes = Processes()
tree = ["/bin/sh", "-c", "sleep 600 & echo $!; wait"]
child = processes.start("tree", tree)
processes.wait_until(lambda: child.tail() != "", child, 10)
print(processes.directory, processes._guard.pid, child.pid, child.tail(), flush=True)
time.sleep(600)
""")
    assert all(alive(int(pid)) for pid in pids)
    kill(program)
    wait_until(lambda: not any(alive(int(pid)) for pid in pids), within=15)
    assert not Path(directory).exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_a_killed_program_leaves_no_fork_not_even_one_that_stands_still() -> None:
    program, words = run_program("""
import os, signal, time
from stoker.worker.processes import Processes
processes = Processes()
pid = os.fork()
if pid:
    processes.adopt(pid)
    os.kill(pid, signal.SIGSTOP)
    os.waitpid(pid, os.WUNTRACED)
    print(pid, processes.directory, flush=True)
else:
    processes.forked()
time.sleep(600)
""")
    pid, directory = int(words[0]), Path(words[1])
    assert alive(pid)
    kill(program)
    wait_until(lambda: not alive(pid) and not directory.exists())


def test_a_program_killed_while_it_starts_a_process_leaves_nothing(tmp_path: Path) -> None:
    # Given a program that is killed after the process exists and before its guard was told of it
    marker = tmp_path / "ran"
    program, (directory, guard) = run_program(f"""
from stoker.worker.processes import Processes
processes = Processes()
print(processes.directory, processes._guard.pid, flush=True)
Processes._tell_guard = lambda self, line: os.kill(os.getpid(), 9)
processes.start("late", ["/bin/sh", "-c", "touch {marker}; sleep 600"])
""")
    kill(program)
    # Then the process never ran its command
    wait_until(lambda: not alive(int(guard)))
    assert not Path(directory).exists()
    assert not marker.exists()


def test_a_killed_guard_is_noticed_and_closing_still_removes_everything() -> None:
    with Processes() as processes:
        child = processes.start("sleeper", SLEEPER)
        processes._guard.kill()
        processes._guard.wait(10)
        with pytest.raises(ChildEnded, match="guard ended with signal SIGKILL"):
            processes.check()
    assert not alive(child.pid)
    assert not processes.directory.exists()


def test_joining_waits_for_a_good_end_and_reports_a_bad_one() -> None:
    with Processes() as processes:
        good = processes.start("good", ["/bin/sh", "-c", "exit 0"])
        processes.join([good], within_s=10)
        bad = processes.start("bad", ["/bin/sh", "-c", "exit 2"])
        with pytest.raises(ChildEnded, match="bad ended with exit code 2"):
            processes.join([bad], within_s=10)
