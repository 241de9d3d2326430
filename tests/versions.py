"""A source of truth for tests of staleness: a version a key, in a file that processes map.

Who changes it first raises versions, then invalidates, and notes them as acknowledged once that is. A read that begins
after that must not show an older one.
"""

import mmap
from collections.abc import Iterable, Mapping
from pathlib import Path


class Versions:
    """Versions of so many keys, all 0 at first. One writer a key; any number of readers.

    Attributes:
        pause_us: How long loaders are to take at most, for all processes.
    """

    def __init__(self, path: Path, size: int) -> None:
        if not path.exists():
            path.write_bytes(bytes(8 * (2 * size + 1)))
        with path.open("r+b") as file:
            self._cells = memoryview(mmap.mmap(file.fileno(), 8 * (2 * size + 1))).cast("q")
        self._size = size

    @property
    def pause_us(self) -> int:
        return self._cells[2 * self._size]

    @pause_us.setter
    def pause_us(self, pause: int) -> None:
        self._cells[2 * self._size] = pause

    def now(self, key: int) -> int:
        """What the source holds."""
        return self._cells[key]

    def acknowledged(self, key: int) -> int:
        """The least version that a read which begins now may show."""
        return self._cells[self._size + key]

    def raise_(self, keys: Iterable[int]) -> dict[int, int]:
        """A new version of each key."""
        for key in keys:
            self._cells[key] += 1
        return {key: self._cells[key] for key in keys}

    def acknowledge(self, versions: Mapping[int, int]) -> None:
        """Note that an invalidation of these versions' forerunners was acknowledged."""
        for key, version in versions.items():
            self._cells[self._size + key] = version
