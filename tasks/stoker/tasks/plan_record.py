"""What is known of one warm plan, as it stands on the state server. Times are the server's, ms of Unix time.

For `plan_store` and those who read plans from it.
"""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from stoker.config import Limits, Timing

Source = Literal["code", "settings", "operator"]


class PlanRecord(BaseModel):
    """A plan and what became of it.

    Attributes:
        source: Whose it is: of the workers' code, of their settings, or an operator's.
        given: What its source says: timing, limits, tenants, and the keys or the function that yields them.
        changes: What an operator says instead.
        paused: Whether an operator keeps the clock from starting it.
        next_ms: When the clock starts it next; None: never.
        taken_ms: When somebody took it upon himself to start a run, until the run's job is written down.
        job: The id of the latest run's job; empty before the first.
        outcome: The final state of that job, or `lost`; empty while it is not over.
        error: Why it failed, or why a run could not be started.
        keys: How many the last run had that succeeded.
        ended_ms: When that was seen.
        missed: How often it was due and no run of its own followed.
        missed_ms: The last time.
        startup_ms: When workers last started it because they started themselves.
        seen_ms: When a process that holds the plan in its code or settings last said so.
    """

    model_config = ConfigDict(frozen=True)  # what a newer version adds is left out

    name: str
    source: Source
    given: dict[str, Any]
    changes: dict[str, Any] = {}
    paused: bool = False
    next_ms: int | None = None
    taken_ms: int | None = None
    job: str = ""
    outcome: str = ""
    error: str = ""
    keys: int | None = None
    ended_ms: int | None = None
    missed: int = 0
    missed_ms: int | None = None
    startup_ms: int | None = None
    seen_ms: int = 0

    @model_validator(mode="after")
    def _says_when_and_how_fast(self) -> Self:
        assert self.timing
        assert self.limits
        return self

    @property
    def spec(self) -> dict[str, Any]:
        """The plan as it is in force."""
        return {**self.given, **self.changes}

    @property
    def timing(self) -> Timing:
        """When it is due, as it is in force."""
        return timing_of(self.spec)

    @property
    def limits(self) -> Limits:
        """How fast it may go, as it is in force."""
        return limits_of(self.spec)

    def of_operator(self) -> str:
        """What of it only the state server knows; empty: nothing."""
        words = ["added" if self.source == "operator" else "", "changed" if self.changes else ""]
        return " and ".join(word for word in [*words, "paused" if self.paused else ""] if word)

    def with_(self, **fields: Any) -> Self:
        """A copy with other fields."""
        return self.model_copy(update=fields)

    def missing(self, count: int, now_ms: int) -> Self:
        """A copy that counts runs that were due and did not come."""
        return self.with_(missed=self.missed + count, missed_ms=now_ms) if count else self


def timing_of(spec: dict[str, Any]) -> Timing:
    """The part of a plan that says when it is due."""
    return Timing.model_validate({name: spec[name] for name in Timing.model_fields if name in spec})


def limits_of(spec: dict[str, Any]) -> Limits:
    """The part of a plan that says how fast it may go."""
    return Limits.model_validate({name: spec[name] for name in Limits.model_fields if name in spec})


PACE_FIELDS = frozenset({*Timing.model_fields, *Limits.model_fields})
"""What operators may change of a plan in code or settings: not its keys, but when they are warmed, and how fast."""
