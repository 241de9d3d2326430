"""Warm plans as an operator sees them: a table, or JSON."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from stoker.tasks import JobStatus
from stoker.tasks.plan_record import PlanRecord
from stoker.tasks.plan_store import Snapshot
from stoker.worker.terminal import counted

Jobs = Mapping[str, JobStatus | None]
"""The jobs of the latest runs by id; None for those that are not known any more."""


def table(snapshot: Snapshot, jobs: Jobs) -> RenderableType:
    """One row a plan; under it what cannot be read and what was lost."""
    view = Table(
        "plan", "source", "schedule", "limits", "next", "last run", "missed", "", box=None, pad_edge=False
    )
    for plan in snapshot.plans.values():
        view.add_row(
            plan.name,
            plan.source + (" (changed)" if plan.changes else ""),
            schedule(plan),
            limits(plan),
            _next(plan, snapshot.now_ms),
            Text(_last(plan, jobs), style="red" if plan.outcome in ("failed", "lost") else ""),
            _missed(plan),
            "paused" if plan.paused else "",
        )
    notes = [
        Text(f"plan {name!r}: its record is damaged; remove it", style="red") for name in snapshot.damaged
    ]
    if snapshot.lost:
        words = ", ".join(f"{name} ({what})" for name, what in snapshot.lost.items())
        text = (
            f"the state server forgot what operators had done: {words}; `stoker plans seen` ends this report"
        )
        notes.append(Text(text, style="red"))
    return Group(view, *notes)


def as_json(snapshot: Snapshot, jobs: Jobs) -> dict[str, Any]:
    """The same for programs; times are Unix time in seconds."""
    plans = [_as_json(plan, jobs) for plan in snapshot.plans.values()]
    return {"plans": plans, "damaged": list(snapshot.damaged), "lost": snapshot.lost}


def schedule(plan: PlanRecord) -> str:
    """When it runs, such as `every 15m` or `cron 0 3 * * *, at start`."""
    timing = plan.timing
    words = []
    if timing.every is not None:
        words.append(f"every {duration(timing.every)}")
    if timing.cron is not None:
        words.append(f"cron {timing.cron}")
    if timing.on_startup:
        words.append("at start")
    return ", ".join(words) or "on demand"


def limits(plan: PlanRecord) -> str:
    """How fast it may go, such as `500 keys/s, 2 at once`; empty: as fast as the keys' loaders allow."""
    found = plan.limits
    words = []
    if found.rate is not None:
        words.append(f"{found.rate:,.10g} keys/s")
    if found.concurrency is not None:
        words.append(f"{found.concurrency:,} at once")
    return ", ".join(words)


def pace(plan: PlanRecord) -> str:
    """When it runs and how fast."""
    return "; ".join(words for words in (schedule(plan), limits(plan)) if words)


def duration(seconds: float) -> str:
    """`90s`, `15m`, `2h`, `1d`: the largest unit that is exact."""
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:g}s"


def _as_json(plan: PlanRecord, jobs: Jobs) -> dict[str, Any]:
    job = jobs.get(plan.job)
    return {
        "name": plan.name,
        "source": plan.source,
        "changed": sorted(plan.changes),
        "spec": plan.spec,
        "schedule": schedule(plan),
        "limits": plan.limits.model_dump(),
        "paused": plan.paused,
        "next": _seconds(None if plan.paused else plan.next_ms),
        "job": plan.job or None,
        "outcome": plan.outcome or (job.state if job else None),
        "error": plan.error or (job.error if job else ""),
        "ended": _seconds(plan.ended_ms),
        "missed": plan.missed,
        "last_missed": _seconds(plan.missed_ms),
    }


def _next(plan: PlanRecord, now_ms: int) -> str:
    if plan.paused or plan.next_ms is None:
        return ""
    left = (plan.next_ms - now_ms) / 1000
    return (
        _moment(plan.next_ms) if left > 86_400 else f"in {left:.0f} s" if left >= 0 else f"{-left:.0f} s ago"
    )


def _last(plan: PlanRecord, jobs: Jobs) -> str:
    if not plan.job:
        return plan.error
    job = jobs.get(plan.job)
    if not plan.outcome:
        return job.state + (f" {counted(job.done, 'key')}" if job.done else "") if job else "unknown"
    when = f" {_moment(plan.ended_ms)}" if plan.ended_ms else ""
    return plan.outcome + when + (f": {plan.error}" if plan.error else "")


def _missed(plan: PlanRecord) -> str:
    if not plan.missed:
        return ""
    return f"{plan.missed:,} (last {_moment(plan.missed_ms or 0)})"


def _moment(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / 1000


def latest_jobs(plans: Iterable[PlanRecord]) -> list[str]:
    """The ids of the runs whose state the table shows."""
    return [plan.job for plan in plans if plan.job and not plan.outcome]
