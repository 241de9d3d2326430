"""A job as it stands, for those who ask: producers, the command line, tests. It is read from the job's hash."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

State = Literal["queued", "running", "succeeded", "failed", "aborted"]

FINAL = frozenset({"succeeded", "failed", "aborted"})


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job as it stands.

    Attributes:
        id: Also the id of its task, hence of its row in Flower.
        kind: The verb: `invalidate`, `sweep`, `warm`, `evict`.
        state: `queued`, `running`, `succeeded`, `failed` or `aborted`; the last three are final.
        done: Keys handled so far.
        total: Keys expected; None while unknown.
        failed: Keys that could not be handled.
        rate: Keys a second, in the present run.
        eta: Seconds to the end, as far as known.
        report: What the verb has to say so far; `{}` before the first batch.
        error: Why it failed, or why it is being tried again; empty otherwise.
        created_at, started_at, updated_at, finished_at: Unix time in seconds; None for what has not been.
    """

    id: str
    kind: str
    state: State
    done: int
    total: int | None
    failed: int
    rate: float
    eta: float | None
    report: dict[str, Any]
    error: str
    created_at: float
    started_at: float | None
    updated_at: float
    finished_at: float | None

    @property
    def final(self) -> bool:
        """Whether the job is over."""
        return self.state in FINAL


FIELDS = (  # everything but the arguments and the cursor, which can be large
    *("kind", "state", "done", "total", "failed", "rate", "eta", "report", "error"),
    *("created_at", "started_at", "updated_at", "finished_at"),
)


def _loaded(text: str | None) -> Any:
    return json.loads(text) if text else None


def _seconds(ms: str | None) -> float | None:
    return int(ms) / 1000 if ms else None


def from_hash(job_id: str, found: Mapping[str, Any]) -> JobStatus:
    """The status that `found`, the hash's `FIELDS`, speak of."""
    return JobStatus(
        id=job_id,
        kind=found["kind"],
        state=found["state"],
        done=int(found["done"] or 0),
        total=int(found["total"]) if found["total"] else None,
        failed=int(found["failed"] or 0),
        rate=float(found["rate"] or 0),
        eta=float(found["eta"]) if found["eta"] else None,
        report=_loaded(found["report"]) or {},
        error=found["error"] or "",
        created_at=_seconds(found["created_at"]) or 0.0,
        started_at=_seconds(found["started_at"]),
        updated_at=_seconds(found["updated_at"]) or 0.0,
        finished_at=_seconds(found["finished_at"]),
    )
