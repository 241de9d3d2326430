"""A job as it stands, for those who ask: producers, the command line, tests. It is read from the job's hash."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast, get_args

from stoker.tasks import record

T = TypeVar("T")

State = Literal["queued", "running", "succeeded", "failed", "aborted"]

FINAL = frozenset({"succeeded", "failed", "aborted"})


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job as it stands.

    Attributes:
        id: Also the id of its task, hence of its row in Flower.
        kind: The verb: `invalidate`, `sweep`, `warm`, `evict`, `rebalance`, `reshard`.
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


def state(text: str) -> State:
    """one that this version knows"""
    if text not in get_args(State):
        raise ValueError
    return cast("State", text)


def from_hash(job_id: str, found: Mapping[str, str | None]) -> JobStatus:
    """The status that `found`, the hash's `FIELDS`, speak of. What cannot be read is left out, and `error` says so."""
    problems = [found["error"]] if found["error"] else []

    def field(name: str, convert: Callable[[str], T], missing: T, *, needed: bool = False) -> T:
        try:
            if needed:
                return record.needed(found, name, convert)
            return record.read(found, name, convert, missing)
        except record.Damaged as damage:
            problems.append(f"its record is damaged: {damage}")
            return missing

    return JobStatus(
        id=job_id,
        kind=found["kind"] or "",
        state=field("state", state, "failed", needed=True),
        done=field("done", record.whole, 0),
        total=field("total", record.whole, None),
        failed=field("failed", record.whole, 0),
        rate=field("rate", record.real, 0.0),
        eta=field("eta", record.real, None),
        report=field("report", record.mapping, {}),
        created_at=field("created_at", record.seconds, 0.0),
        started_at=field("started_at", record.seconds, None),
        updated_at=field("updated_at", record.seconds, 0.0),
        finished_at=field("finished_at", record.seconds, None),
        error="; ".join(problems),
    )
