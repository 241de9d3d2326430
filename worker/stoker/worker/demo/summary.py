"""What came of a demo: the figures, and whether it may be called a success."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from stoker.tasks import JobStatus
from stoker.worker.demo.board import Board, Count
from stoker.worker.demo.producer import Outcome
from stoker.worker.terminal import counted

LEAST_READS = 100
"""A demo that checked fewer values proves nothing."""


@dataclass(frozen=True, slots=True)
class Result:
    """Everything that was counted.

    Attributes:
        airports: Rows in the database.
        warm: The report of the warm job.
        warm_s: Seconds from asking for it to its success.
        jobs: All jobs of the demo.
        told: What the readers wrote about stale reads.
    """

    airports: int
    warm: dict[str, Any]
    warm_s: float
    jobs: list[JobStatus]
    outcome: Outcome
    reads: int
    stale: int
    stray: int
    hits: int
    misses: int
    told: list[str]

    @property
    def swept(self) -> int:
        """Entries that sweeps deleted."""
        return sum(job.report.get("deleted", 0) for job in self.jobs if job.kind == "sweep")


def totals(board: Board) -> dict[str, int]:
    """The counts of a Result that come from the board."""
    fields = {
        "reads": Count.READS,
        "stale": Count.STALE,
        "stray": Count.STRAY,
        "hits": Count.HITS,
        "misses": Count.MISSES,
    }
    return {name: board.total(count) for name, count in fields.items()}


def problems(result: Result) -> Iterator[str]:
    """Why the demo is no success; nothing if it is."""
    if result.stale:
        yield counted(result.stale, "stale read")
    if result.stray:
        yield f"{counted(result.stray, 'read')} got another airport's value"
    if result.reads < LEAST_READS:
        yield f"only {result.reads:,} reads were checked; run longer with --seconds"
    if result.warm["written"] != result.airports:
        yield f"{result.warm['written']:,} of {result.airports:,} keys were warmed: {result.warm['errors']}"
    yield from (
        f"job {job.id} ({job.kind}) {job.state}: {job.error}"
        for job in result.jobs
        if job.state != "succeeded"
    )
    yield from result.outcome.failures


def rows(result: Result) -> Iterator[tuple[str, str]]:
    """The figures, each with its name."""
    outcome = result.outcome
    asked = ", ".join(f"{count:,} by {kind}" for kind, count in outcome.invalidations.items())
    yield "keys warmed", f"{result.warm['written']:,} at {result.warm['written'] / result.warm_s:,.0f}/s"
    yield "hit rate", f"{result.hits / max(1, result.hits + result.misses):.1%}"
    yield "invalidations", asked
    yield "time to effect, direct", _times(outcome.direct_ms)
    yield "time to effect, by job", _times(outcome.job_ms)
    yield "keys swept", f"{result.swept:,}"
    yield (
        "jobs",
        f"{sum(job.state == 'succeeded' for job in result.jobs):,} of {len(result.jobs):,} succeeded",
    )
    yield "reads checked", f"{result.reads:,}"
    yield "stale reads", f"{result.stale:,}"


def _times(times_ms: list[float]) -> str:
    if len(times_ms) < 2:
        return "too few to tell"
    p99 = quantiles(times_ms, n=100, method="inclusive")[98]
    return f"{median(times_ms):.1f} ms median, {p99:.1f} ms p99 of {len(times_ms):,}"
