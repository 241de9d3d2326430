"""Which processes there are, as `ps` tells on Linux and macOS alike."""

import subprocess


def alive(pid: int) -> bool:
    """Whether the process exists and is more than a zombie, which some systems' first process reaps late."""
    return pid in _table()


def descendants(pid: int) -> set[int]:
    """The children of a process, theirs, and so on."""
    table = _table()
    found: set[int] = set()
    new = {pid}
    while new:
        new = {child for child, parent in table.items() if parent in new} - found
        found |= new
    return found


def _table() -> dict[int, int]:
    """Process to parent, without zombies."""
    lines = subprocess.run(
        ["ps", "-e", "-o", "pid=,ppid=,stat="], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    rows = (line.split() for line in lines)
    return {int(pid): int(parent) for pid, parent, stat in rows if not stat.startswith("Z")}
