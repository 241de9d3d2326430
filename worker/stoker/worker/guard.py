"""Ends the processes of a program that is gone and removes its directory. `processes` runs it as a script.

It lives exactly as long as that program: its standard input is a pipe whose other end only the program
holds, so any death of the program, SIGKILL included, shows here as the end of the input. It needs no signal
that only one system has, and it is in a session of its own, out of reach of a terminal's Ctrl-C and of a
kill of the program's process group.

Only the standard library is imported: it starts in milliseconds, before anything it has to guard.

Input, one a line: `+PGID` a process group to end, `-PGID` one that has ended. Output: the directory's path.
"""

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable

GRACE_S = 3.0
"""Between SIGTERM and SIGKILL. Nobody is left to wait for, so it is short."""
GONE_S = 5.0
"""Longest wait for the killed to disappear before their directory is removed all the same."""


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the end of the input is the one way to end it
    directory = tempfile.mkdtemp(prefix="stoker-")
    try:
        sys.stdout.write(directory + "\n")
        sys.stdout.flush()
        end(follow(sys.stdin))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def follow(lines: Iterable[str]) -> set[int]:
    """Read until the input ends; return the process groups that are left then."""
    groups: set[int] = set()
    for line in lines:
        group = int(line[1:])
        if line[0] == "+":
            groups.add(group)
        else:
            groups.discard(group)
    return groups


def end(groups: set[int]) -> None:
    """Ask the groups to end, then make them."""
    for number, patience in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, GONE_S)):
        send(groups, number)
        deadline = time.monotonic() + patience
        while send(groups, 0) and time.monotonic() < deadline:
            time.sleep(0.02)


def send(groups: set[int], number: int) -> bool:
    """Signal every group; forget those that are gone; tell whether any is left. 0 only looks."""
    for group in tuple(groups):
        try:
            os.killpg(group, number)
        except ProcessLookupError:
            groups.discard(group)
        except PermissionError:  # macOS says so of a group of zombies
            groups.discard(group)
    return bool(groups)


if __name__ == "__main__":
    main()
