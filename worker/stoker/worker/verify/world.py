"""The truth that readers are checked against: a version a key, in memory that all processes of a run share.

A writer first raises a key's version, then invalidates, and once that is acknowledged writes the version down as
acknowledged. A read that begins when version `a` is acknowledged must return version `a` or a newer one; each read is
judged by that one comparison, so that millions can be. Nothing here knows the cache.
"""

import mmap
import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

TENANTS: tuple[str | None, ...] = (None, "acme", "acme:eu", "a*[me]{%}\n\u00e9", "\"}]\\u0000,':\U0001f9ea")
"""The shared key space, a prefix of another's name, and every character that means something to somebody."""
GROUPS = 6
KEYS = tuple(f"{kind}:{n % GROUPS}:{n}" for kind in ("user", "post") for n in range(30))
PATTERNS = ("user:*", "post:*", "user:[0-2]:*", "post:?:1?", "*:2[0-4]", "*5")
TAGS = tuple(f"group {n}" for n in range(GROUPS))
NAMES = len(TENANTS) * len(KEYS)
PAD = "x" * 100

COUNTS: tuple[str, ...] = (
    "reads",
    "hits",
    "loads",
    "refreshes",
    "refreshes_sent",
    "stale",
    "wrong",
    "acks",
    "job_acks",
    "unacked",
    "warmed",
    "sweeps",
    "job_sweeps",
    "duplicates",
    "retired",
    "evicted",
    "tokens_stored",
    "tokens_refused",
    "unavailable",
    "errors",
    "refused",
    "cancelled",
    "near_hits",
)
SLOTS = 20
_STOP, _COUNTS_AT = 2 * NAMES, 2 * NAMES + 1
_CELLS = _COUNTS_AT + SLOTS * len(COUNTS)


def tag_of(key: int) -> str:
    """The one tag of a key, given its place in KEYS."""
    return f"group {KEYS[key].split(':')[1]}"


def keys_with_tag(tag: str) -> list[int]:
    """Places in KEYS of the keys with the tag."""
    return [key for key in range(len(KEYS)) if tag_of(key) == tag]


def keys_that_match(pattern: str) -> list[int]:
    """Places in KEYS of the keys that match. `fnmatch` and Stoker read these patterns alike."""
    return [key for key, name in enumerate(KEYS) if fnmatchcase(name, pattern)]


class World:
    """Versions, acknowledged versions, counters and the stop sign of one run.

    One process writes a cell at a time: each tenant has one writer, each role its own row of counters.
    """

    def __init__(self, folder: Path, *, create: bool = False) -> None:
        self._path = folder / "world"
        self._notes = folder / "notes"
        self._creator = os.getpid() if create else None
        if create:
            self._path.write_bytes(bytes(8 * _CELLS))
        with self._path.open("r+b") as file:
            self._cells = memoryview(mmap.mmap(file.fileno(), 8 * _CELLS)).cast("q")

    def version(self, tenant: int, key: int) -> int:
        """What the source of truth holds now."""
        return self._cells[tenant * len(KEYS) + key]

    def acknowledged(self, tenant: int, key: int) -> int:
        """The newest version whose invalidation has been acknowledged."""
        return self._cells[NAMES + tenant * len(KEYS) + key]

    def change(self, tenant: int, keys: Sequence[int]) -> dict[int, int]:
        """Write the source of truth: a new version of each key."""
        for key in keys:
            self._cells[tenant * len(KEYS) + key] += 1
        return {key: self.version(tenant, key) for key in keys}

    def acknowledge(self, tenant: int, versions: dict[int, int]) -> None:
        """Note that no older versions may be served from now on."""
        for key, version in versions.items():
            cell = NAMES + tenant * len(KEYS) + key
            self._cells[cell] = max(self._cells[cell], version)

    @property
    def stopped(self) -> bool:
        """Whether the run is over, or the process that runs it is gone."""
        return bool(self._cells[_STOP]) or self._creator not in (None, os.getpid(), os.getppid())

    def stop(self) -> None:
        """End the run."""
        self._cells[_STOP] = 1

    def count(self, slot: int, counts: dict[str, int]) -> None:
        """Add to a role's counters."""
        for name, more in counts.items():
            self._cells[_COUNTS_AT + slot * len(COUNTS) + COUNTS.index(name)] += more

    def totals(self) -> dict[str, int]:
        """The counters of all roles together."""
        return {name: sum(self._of(name)) for name in COUNTS}

    def _of(self, name: str) -> Iterator[int]:
        return (self._cells[_COUNTS_AT + slot * len(COUNTS) + COUNTS.index(name)] for slot in range(SLOTS))

    def note(self, line: str) -> None:
        """Keep a line about something that should not be: it is shown when the run fails."""
        with self._notes.open(
            "ab", buffering=0
        ) as file:  # one write of one line: lines of two processes do not mix
            file.write(line.encode(errors="replace") + b"\n")

    def notes(self) -> list[str]:
        """The lines kept so far."""
        return self._notes.read_text().splitlines() if self._notes.exists() else []


def value(tenant: int, key: int, version: int) -> dict[str, Any]:
    """What a loader returns: it says whose it is and how new."""
    return {"tenant": tenant, "key": KEYS[key], "version": version, "pad": PAD, "by": os.getpid()}
