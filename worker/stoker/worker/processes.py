"""Child processes that end with this one, however it ends, and the directory for their files.

Knows nothing of Celery or Redis: `embedded` starts servers with it, `up` the whole stack, `demo` its readers.

Two parts make sure that nothing is left behind. `guard` runs beside, sees this process disappear and ends the
rest. And a child does not run before the guard knows it: it begins as a shell that waits for a line on its
input, and ends if the input ends first. (The parent-death signal of Linux would save the guard there, but it
fires when the *thread* that started the child ends, and removes no directory.)
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from stoker.worker import guard

_WAIT_FOR_GO = 'read go && exec "$@" </dev/null'
_TAIL_BYTES = 16_384


class ChildEnded(RuntimeError):
    """A process that should run on has ended; the message holds the end of its log."""

    def __init__(self, name: str, code: int, log: str) -> None:
        super().__init__(name, code, log)
        self.name = name
        self.code = code
        self.log = log

    def __str__(self) -> str:
        how = f"exit code {self.code}" if self.code >= 0 else f"signal {signal.Signals(-self.code).name}"
        return f"{self.name} ended with {how}. The end of its log:\n{self.log or '(empty)'}"


class NotReady(RuntimeError):
    """Something did not become ready in time; the message holds the end of the log concerned."""

    def __init__(self, what: str, waited_s: float, log: str) -> None:
        super().__init__(what, waited_s, log)
        self.what = what
        self.waited_s = waited_s
        self.log = log

    def __str__(self) -> str:
        late = f"{self.what} was not ready after {self.waited_s:g} s"
        return f"{late}. The end of its log:\n{self.log or '(empty)'}"


@dataclass(frozen=True, slots=True)
class Child:
    """One started process, leader of its own session and process group."""

    name: str
    log: Path
    process: subprocess.Popen[bytes]
    command: tuple[str, ...]

    @property
    def pid(self) -> int:
        return self.process.pid

    def tail(self, lines: int = 20) -> str:
        """The last lines of what it wrote to standard output and standard error."""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:])


class Processes:
    """A directory and the processes that use it; `close`, or the end of this process, ends and removes all.

    Use it from one thread. Raises OSError where the system refuses a process.

    Args:
        grace_s: Seconds that `close` gives each process between SIGTERM and SIGKILL.
    """

    def __init__(self, grace_s: float = 5.0) -> None:
        self._grace_s = grace_s
        self._children: list[Child] = []
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )
        assert self._guard.stdin is not None
        assert self._guard.stdout is not None
        self._to_guard = self._guard.stdin
        with self._guard.stdout as answer:
            line = answer.readline().decode()
        if not line:
            raise ChildEnded("guard", self._guard.wait(), "")
        self.directory = Path(line.rstrip("\n"))

    def start(self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None) -> Child:
        """Run a command; its output goes to `<directory>/<name>.log`, its temporary files to the directory too.

        Args:
            env: Its environment; that of this process if left out.

        Raises:
            ChildEnded: One started before, or the guard, has ended meanwhile.
        """
        self.check()
        log = self.directory / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                ["/bin/sh", "-c", _WAIT_FOR_GO, "sh", *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**(os.environ if env is None else env), "TMPDIR": str(self.directory)},
                start_new_session=True,
            )
        child = Child(name, log, process, tuple(command))
        self._children.append(child)
        self._tell_guard(f"+{child.pid}\n")
        assert process.stdin is not None
        with process.stdin as go:
            go.write(b"go\n")
        return child

    def again(self, child: Child) -> Child:
        """Run the command of one that has been stopped once more; as `start`."""
        return self.start(child.name, child.command)

    def adopt(self, pid: int) -> None:
        """See that a fork of this process ends with it too, and in whatever state it is, until `let_go`.

        It leads a process group of its own from now on. The fork itself is to call `forked`.
        """
        with suppress(ProcessLookupError, PermissionError):  # it has ended, or done that itself and gone on
            os.setpgid(pid, pid)
        self._tell_guard(f"+{pid}\n")

    def let_go(self, pid: int) -> None:
        """It has ended."""
        self._tell_guard(f"-{pid}\n")

    def forked(self) -> None:
        """In a fork: take part in nothing here. The guard waits for the end of all who could still talk to it."""
        self._to_guard.close()

    def check(self) -> None:
        """Raise ChildEnded if a started process, or the guard, has ended by itself."""
        for child in self._children:
            code = child.process.poll()
            if code is not None:
                raise ChildEnded(child.name, code, child.tail())
        code = self._guard.poll()
        if code is not None:
            raise ChildEnded("guard", code, "")

    def wait_until(self, ready: Callable[[], bool], child: Child, within_s: float) -> None:
        """Poll `ready` until it is true.

        Raises:
            ChildEnded: A process has ended meanwhile.
            NotReady: `within_s` seconds are over.
        """
        deadline = time.monotonic() + within_s
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise NotReady(child.name, within_s, child.tail())
            time.sleep(0.02)

    def stop(self, children: Iterable[Child], grace_s: float) -> None:
        """Send SIGTERM to all of them, wait up to `grace_s` seconds in all, then SIGKILL what is left."""
        stopping = list(children)
        try:
            for child in stopping:
                if child.process.poll() is None:
                    child.process.terminate()
            deadline = time.monotonic() + grace_s
            while any(c.process.poll() is None for c in stopping) and time.monotonic() < deadline:
                time.sleep(0.02)
        finally:
            for child in stopping:
                self._kill(child)

    def join(self, children: Iterable[Child], within_s: float) -> None:
        """Wait until these have ended by themselves, without an error.

        Raises:
            ChildEnded: One of them failed.
            NotReady: `within_s` seconds are over.
        """
        deadline = time.monotonic() + within_s
        for child in children:
            while (code := child.process.poll()) is None:
                if time.monotonic() > deadline:
                    raise NotReady(f"the end of {child.name}", within_s, child.tail())
                time.sleep(0.02)
            if code != 0:
                raise ChildEnded(child.name, code, child.tail())
            self._kill(child)

    def close(self) -> None:
        """Stop what still runs, the latest first; then remove the directory."""
        try:
            for child in reversed(self._children[:]):
                self.stop([child], self._grace_s)
        finally:
            for child in self._children[:]:  # a second Ctrl-C has ended the patience
                self._kill(child)
            with suppress(BrokenPipeError):
                self._to_guard.close()
            self._guard.wait(guard.GRACE_S + 2 * guard.GONE_S)
            shutil.rmtree(self.directory, ignore_errors=True)  # the guard did, unless it was killed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _kill(self, child: Child) -> None:
        """End what is left of its group, for a leader may leave children behind; then forget it."""
        with suppress(ProcessLookupError, PermissionError):  # all gone; macOS says the latter of zombies
            os.killpg(child.pid, signal.SIGKILL)
        child.process.wait(guard.GONE_S)
        if child in self._children:
            self._children.remove(child)
            self._tell_guard(f"-{child.pid}\n")

    def _tell_guard(self, line: str) -> None:
        with suppress(BrokenPipeError):  # `check` tells of a guard that has ended
            self._to_guard.write(line.encode())
            self._to_guard.flush()
