"""The work of a warm: units of keys, which lanes take one at a time until none is left.

One warm deals, any number of lanes work, in this process or in others: a unit is done once, whoever does it first.
`LocalWork` is that of one process; the tasks keep theirs on the state server, for the whole fleet.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

from stoker.cache.protocol import Name
from stoker.cache.warm_report import Outcome, Tally, WarmReport, merged

MOST_UNITS = 64
"""Units dealt and not done; a stream of keys is read no further ahead."""
AGAIN_S = 0.2
"""Pause before keys are tried again that somebody else was loading."""
RETRY_S = 0.25
"""Pause before keys are tried again whose loader raised; it doubles."""


class Unit(NamedTuple):
    """Keys that are warmed together.

    Attributes:
        id: Names it within its warm.
        names: Its keys.
        round: How often their loader has raised.
        since: When they were first put off (Unix seconds), because others were loading them; 0: never.
    """

    id: str
    names: Sequence[Name]
    round: int = 0
    since: float = 0.0


class Work(Protocol):
    """What is left to do, and what was done."""

    def tally(self) -> Tally:
        """How it stands."""
        ...

    def deal(self, names: Sequence[Name], bad: Outcome) -> bool:
        """Add the next keys of the stream: those that have a usable name, and what became of the others.

        Returns:
            False: not now, there is enough to do.
        """
        ...

    def close(self) -> None:
        """No more will be dealt."""
        ...

    def take(self) -> Unit | float | None:
        """A unit to work on; or seconds after which there may be one; None: never again."""
        ...

    def done(self, unit: Unit, outcome: Outcome) -> None:
        """Say what became of a unit. What is to be tried again becomes units of its own."""
        ...

    def put_back(self, unit: Unit) -> None:
        """Let somebody else do it."""
        ...

    def stop(self, reason: str, error: tuple[str, str]) -> None:
        """Leave the rest undone, for good."""
        ...


def leftovers(unit: Unit, outcome: Outcome) -> list[tuple[Unit, float]]:
    """What is to be tried again of a unit, and in how many seconds."""
    left: list[tuple[Unit, float]] = []
    if outcome.held:
        since = unit.since or time.time()
        left.append((Unit(f"{unit.id}h", outcome.held, unit.round, since), AGAIN_S))
    if outcome.failing:
        pause = RETRY_S * 2**unit.round
        left.append((Unit(f"{unit.id}f", outcome.failing, unit.round + 1), pause))
    return left


def settled(unit: Unit, outcome: Outcome) -> int:
    """Keys of a unit that need no further try."""
    return len(unit.names) - len(outcome.held) - len(outcome.failing)


def failing_more(unit: Unit, outcome: Outcome) -> int:
    """By how much the keys that are left, and whose loader has raised, have become more."""
    before = len(unit.names) if unit.round else 0
    return len(outcome.failing) + (len(outcome.held) if unit.round else 0) - before


class LocalWork:
    """Work of one process, whose lanes may be threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[tuple[float, Unit]] = []
        self._under_way: set[str] = set()
        self._tally = Tally(0, 0, 0, False, WarmReport())

    def tally(self) -> Tally:
        return self._tally

    def deal(self, names: Sequence[Name], bad: Outcome) -> bool:
        with self._lock:
            if self._tally.closed or len(self._waiting) >= MOST_UNITS:
                return False
            dealt, left, *_, report = self._tally
            if names:
                self._waiting.append((0.0, Unit(str(dealt), names)))
            self._tally = self._tally._replace(
                dealt=dealt + len(names) + bad.counts.get("failed", 0),
                left=left + len(names),
                report=merged(report, bad),
            )
            return True

    def close(self) -> None:
        with self._lock:
            self._tally = self._tally._replace(closed=True)

    def take(self) -> Unit | float | None:
        with self._lock:
            if not self._waiting:
                return None if self._tally.closed and not self._under_way else 1.0
            due, unit = min(self._waiting, key=lambda item: item[0])
            pause = due - time.monotonic()
            if pause > 0:
                return pause
            self._waiting.remove((due, unit))
            self._under_way.add(unit.id)
            return unit

    def done(self, unit: Unit, outcome: Outcome) -> None:
        with self._lock:
            if unit.id not in self._under_way:
                return
            self._under_way.remove(unit.id)
            now = time.monotonic()
            self._waiting += [(now + pause, again) for again, pause in leftovers(unit, outcome)]
            self._tally = self._tally._replace(
                left=self._tally.left - settled(unit, outcome),
                failing=self._tally.failing + failing_more(unit, outcome),
                report=merged(self._tally.report, outcome),
            )

    def put_back(self, unit: Unit) -> None:
        with self._lock:
            self._under_way.discard(unit.id)
            self._waiting.append((0.0, unit))

    def stop(self, reason: str, error: tuple[str, str]) -> None:
        with self._lock:
            self._waiting.clear()
            self._under_way.clear()
            self._tally = stopped(self._tally, reason, error)


def stopped(tally: Tally, reason: str, error: tuple[str, str]) -> Tally:
    """The end of a warm that leaves the rest undone: what was failing has failed, what was not tried was not asked."""
    report = merged(tally.report, Outcome({"failed": tally.failing}, [error]))
    dealt = tally.dealt - (tally.left - tally.failing)
    return Tally(dealt, 0, 0, True, replace(report, stopped=reason))
