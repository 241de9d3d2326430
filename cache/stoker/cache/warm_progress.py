"""What a warm did, and how far it is. For `warm`, which does it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from stoker.cache.errors import InvalidName
from stoker.cache.protocol import Name
from stoker.cache.steps import Step

MOST_ERRORS = 10
ROUNDS = 3
"""How often a key is loaded whose loader raises."""
MOST_FAILING = 10_000
"""Keys remembered to be loaded once more."""
STOP_SHARE = 0.5
"""Share of failing loads above which a warm stops: the origin has other trouble."""
FEWEST_TRIED = 100
"""Loads from which on that share means something."""


@dataclass(frozen=True, slots=True)
class WarmReport:
    """What a warm did; in the end every key asked for is in exactly one of `written` to `failed`.

    Attributes:
        asked: Keys handled.
        written: Loaded and stored.
        fresh: Already there.
        busy: Being loaded by somebody else to the end.
        refused: Loaded, but invalidated or set meanwhile, twice.
        missing: The loader had no value.
        failed: The loader raised, thrice for each; no loader is registered, or the value cannot be encoded.
        checked, readable: Written keys that were read back, and those of them that were there.
        errors: The first few (key, message).
        stopped: Why it ended before its last key; '' if it did not.
    """

    asked: int = 0
    written: int = 0
    fresh: int = 0
    busy: int = 0
    refused: int = 0
    missing: int = 0
    failed: int = 0
    checked: int = 0
    readable: int = 0
    errors: tuple[tuple[str, str], ...] = ()
    stopped: str = ""


@dataclass(slots=True)
class Progress:
    """How far a warm is: keys taken from the stream, those to be tried again, and those whose loader raised in this
    round.
    """

    at: int = 0
    again: list[Name] = field(default_factory=list)
    failing: list[Name] = field(default_factory=list)
    round: int = 0
    report: WarmReport = WarmReport()

    @classmethod
    def resume(cls, cursor: dict[str, Any] | None) -> "Progress":
        if not cursor:
            return cls()
        report = cursor["report"]
        errors = tuple((key, message) for key, message in report["errors"])
        again, failing = ([(tenant, key) for tenant, key in cursor[name]] for name in ("again", "failing"))
        return cls(cursor["at"], again, failing, cursor["round"], WarmReport(**{**report, "errors": errors}))

    def usable(self, chunk: Sequence[Name | InvalidName]) -> list[Name]:
        """The names of a chunk; what is none has failed, and does not hold the rest."""
        for refused in chunk:
            if isinstance(refused, InvalidName):
                self.fail(str(refused.value), str(refused))
        return [name for name in chunk if not isinstance(name, InvalidName)]

    def count(self, **more: int) -> None:
        self.report = replace(
            self.report, **{name: getattr(self.report, name) + n for name, n in more.items()}
        )

    def raised(self, name: Name, error: Exception) -> None:
        """The loader raised: try again in the next round, if there is one."""
        if self.round < ROUNDS - 1 and len(self.failing) < MOST_FAILING:
            self.failing.append(name)
        else:
            self.fail(name[1], f"{type(error).__name__}: {error}")

    def fail(self, key: str, message: str) -> None:
        self.count(failed=1)
        if len(self.report.errors) < MOST_ERRORS:
            self.report = replace(self.report, errors=(*self.report.errors, (key, message)))

    def next_round(self) -> list[Name]:
        """The keys that failed in this round, which ends with that."""
        names, self.failing = self.failing, []
        self.round += 1
        return names

    def too_many_failed(self) -> bool:
        """Whether the origin had better be left alone; told in the report."""
        raised = len(self.failing) + self.report.failed
        tried = raised + self.report.written + self.report.missing
        if tried < FEWEST_TRIED or raised <= STOP_SHARE * tried:
            return False
        self.report = replace(self.report, stopped=f"{raised} of {tried} loads failed")
        return True

    def step(self, total: int | None, *, last: bool) -> Step[WarmReport]:
        report = replace(self.report, asked=self.at)
        cursor = {
            "at": self.at,
            "again": [list(name) for name in self.again],
            "failing": [list(name) for name in self.failing],
            "round": self.round,
            "report": asdict(report),
        }
        waiting = len(self.again) + len(self.failing)
        return Step(self.at - waiting, total, report.failed + len(self.failing), cursor, report, last)
