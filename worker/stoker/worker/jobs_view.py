"""Jobs as an operator sees them: a table, or JSON."""

import time
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from stoker.tasks import JobHandle, JobStatus, runtime

LOOK_EVERY_S = 0.5
_LATE_S = 5.0
"""From when on a job that no worker has begun is worth a word."""
_COLOURS = {"queued": "dim", "running": "cyan", "succeeded": "green", "failed": "red", "aborted": "yellow"}


def table(jobs: Iterable[JobStatus]) -> Table:
    """One row a job."""
    view = Table("job", "kind", "state", "progress", "keys", "rate", "ETA", "age", box=None, pad_edge=False)
    for job in jobs:
        view.add_row(
            job.id,
            job.kind,
            Text(job.state, style=_COLOURS[job.state]),
            ProgressBar(total=job.total or 1, completed=_completed(job), width=20),
            _keys(job),
            f"{job.rate:.0f}/s" if job.rate else "",
            f"{job.eta:.0f} s" if job.eta is not None else "",
            f"{max(time.time() - job.created_at, 0):.0f} s",
        )
    return view


def dead(jobs: Iterable[JobStatus]) -> Table:
    """Jobs that were given up: when, after how much, and why."""
    view = Table("job", "kind", "given up at", "keys", "reason", box=None, pad_edge=False)
    for job in jobs:
        when = datetime.fromtimestamp(job.finished_at or job.updated_at).astimezone()
        view.add_row(job.id, job.kind, f"{when:%Y-%m-%d %H:%M:%S %Z}", _keys(job), Text(job.error))
    return view


def detail(job: JobStatus) -> RenderableType:
    """One job with its report and error."""
    report = Table(box=None, show_header=False, pad_edge=False)
    for name, value in job.report.items():
        report.add_row(name, str(value))
    parts: list[RenderableType] = [table([job]), "", report]
    if job.error:
        parts.append(Text(job.error, style="red" if job.state == "failed" else "yellow"))
    return Group(*parts)


def follow(job: JobHandle) -> JobStatus:
    """Show a job's progress on standard error until it has ended. Ctrl-C ends the showing, and not the job.

    Raises:
        JobLost: The state server does not know it (any more).
        StateUnavailable: It does not answer.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[keys]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        row = progress.add_task("", total=None, keys="")
        while not (status := job.status()).final:
            progress.update(
                row,
                description=_doing(status),
                total=status.total or None,
                completed=status.done,
                keys=_keys(status),
            )
            runtime.current().jobs.wait(job.id, LOOK_EVERY_S)
    return status


def _doing(job: JobStatus) -> str:
    if job.state == "queued" and time.time() - job.created_at > _LATE_S:
        return f"{job.kind} queued: does a worker serve its queue? see  stoker doctor"
    return f"{job.kind} {job.state}"


def as_json(job: JobStatus) -> dict[str, Any]:
    return asdict(job)


def _completed(job: JobStatus) -> float:
    if job.state == "succeeded":
        return job.total or 1
    return job.done if job.total else 0


def _keys(job: JobStatus) -> str:
    text = f"{job.done:,}" if job.total is None else f"{job.done:,}/{job.total:,}"
    return f"{text} ({job.failed:,} failed)" if job.failed else text
