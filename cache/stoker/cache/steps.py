"""What a long method (warm, sweep, evict, ...) reports after each batch, so that a job can show progress and go on."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

R = TypeVar("R", covariant=True)
T = TypeVar("T")
Cursor = dict[str, Any] | None
"""Where a verb goes on; None: at the beginning."""


@dataclass(frozen=True, slots=True)
class Step(Generic[R]):
    """One batch done.

    Attributes:
        done: Keys handled (bytes freed, where memory is what matters), over the whole job, parts before a
            restart included.
        total: The same when all is done, as far as known; None while unknown.
        failed: Keys that could not be handled so far.
        cursor: JSON-able; given back, the verb goes on after this batch.
        report: Cumulative over the whole job; a frozen dataclass of JSON-able values.
        last: Whether the work is complete.
    """

    done: int
    total: int | None
    failed: int
    cursor: dict[str, Any]
    report: R
    last: bool


def last_report(steps: Iterator[Step[T]]) -> T:
    """Take all the steps; what the last of them says."""
    *_, last = steps
    return last.report
