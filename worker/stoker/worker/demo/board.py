"""What the demo's processes tell each other: acknowledged versions and counters, in a file that all have mapped.

One 64-bit word each. Every word has one writer, so no lock is needed: the producer writes what is acknowledged,
every thread its own counts.
"""

import mmap
from collections.abc import Mapping
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Self

_WORD = 8


class Count(IntEnum):
    """What a thread counts."""

    BEGUN = 0  # 1 from when the process is at work; this, HITS and MISSES are its first thread's to write
    READS = 1  # values checked
    STALE = 2  # of them older than what was acknowledged before the read began
    STRAY = 3  # of them another airport's or another country's
    HITS = 4  # of the whole process
    MISSES = 5
    INVALIDATIONS = 6  # acknowledged ones


class Board:
    """The mapped file: [stop] [acknowledged version of each airport] [counts of each thread]."""

    def __init__(self, path: Path, airports: int, threads: int) -> None:
        """Map the file, and create it if it is not there. All processes give the same numbers."""
        self._airports = airports
        self._threads = threads
        words = 1 + airports + threads * len(Count)
        with path.open("a+b") as file:
            file.truncate(words * _WORD)
            self._map = mmap.mmap(file.fileno(), words * _WORD)
        self._words = memoryview(self._map).cast("q")

    @property
    def stopped(self) -> bool:
        return self._words[0] != 0

    def stop(self) -> None:
        """Tell all to end."""
        self._words[0] = 1

    def acked(self, number: int) -> int:
        """The newest version of an airport whose invalidation was acknowledged; 0 at first."""
        return self._words[1 + number]

    def acknowledge(self, versions: Mapping[int, int]) -> None:
        """Say that no older version of these airports may be read from now on."""
        for number, version in versions.items():
            self._words[1 + number] = version

    def add(self, thread: int, what: Count, amount: int = 1) -> None:
        """Count for one thread."""
        self._words[self._at(thread, what)] += amount

    def put(self, thread: int, what: Count, amount: int) -> None:
        """Set a count of one thread."""
        self._words[self._at(thread, what)] = amount

    def total(self, what: Count) -> int:
        """The sum over all threads."""
        return sum(self._words[self._at(thread, what)] for thread in range(self._threads))

    def close(self) -> None:
        self._words.release()
        self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _at(self, thread: int, what: Count) -> int:
        return 1 + self._airports + thread * len(Count) + what
