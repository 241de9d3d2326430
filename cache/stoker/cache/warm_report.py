"""What a warm did: of one unit, of all of them so far, and as the caller is told. For `warm` and `work`."""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from stoker.cache.protocol import Name

MOST_ERRORS = 10
STOP_SHARE = 0.5
"""Share of failing loads above which a warm stops: the origin has other trouble."""
FEWEST_TRIED = 100
"""Loads from which on that share means something."""
COUNTS = ("written", "fresh", "busy", "refused", "missing", "failed", "checked", "readable")


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
class Outcome:
    """What became of some keys: how many ended how, and those that are to be tried again.

    Attributes:
        counts: By the names of `COUNTS`.
        errors: (key, message) of the first few that failed.
        held: Somebody else is loading them, or they were invalidated under their load.
        failing: Their loader raised.
    """

    counts: dict[str, int] = field(default_factory=dict)
    errors: list[tuple[str, str]] = field(default_factory=list)
    held: list[Name] = field(default_factory=list)
    failing: list[Name] = field(default_factory=list)

    def count(self, what: str, more: int = 1) -> None:
        if more:
            self.counts[what] = self.counts.get(what, 0) + more

    def fail(self, key: str, message: str) -> None:
        self.count("failed")
        if len(self.errors) < MOST_ERRORS:
            self.errors.append((key, message))


class Tally(NamedTuple):
    """How a warm stands.

    Attributes:
        dealt: Keys taken from the stream.
        left: Of these, not handled to their end.
        failing: Of these, those whose loader has raised.
        closed: Whether no more will be dealt.
        report: Of what was handled; its `asked` is not kept up.
    """

    dealt: int
    left: int
    failing: int
    closed: bool
    report: WarmReport

    @property
    def trouble(self) -> str:
        """Why the origin had better be left alone; '' if all is well."""
        raised = self.failing + self.report.failed
        tried = raised + self.report.written + self.report.missing
        if tried < FEWEST_TRIED or raised <= STOP_SHARE * tried:
            return ""
        return f"{raised} of {tried} loads failed"


def merged(report: WarmReport, outcome: Outcome) -> WarmReport:
    """The report with one more unit's outcome."""
    sums = {name: getattr(report, name) + more for name, more in outcome.counts.items()}
    errors = (*report.errors, *outcome.errors)[:MOST_ERRORS]
    return replace(report, **sums, errors=errors)
