"""What a check is and what it says. Knows no server: the framework of all modules beside it."""

from dataclasses import dataclass
from enum import IntEnum


class Severity(IntEnum):
    """How bad a finding is, in rising order."""

    OK = 0
    NOTE = 1
    """Worth knowing; nothing has to be done."""
    WARNING = 2
    """It works now, and will hurt under load or after the next restart."""
    ERROR = 3
    """Something does not work."""

    @property
    def word(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check saw.

    Attributes:
        check: The check's name; filled in by whoever runs it.
        severity: See `Severity`.
        seen: What was seen, with its figures.
        cause: Why that is; empty where all is well.
        remedy: What to do, with the exact setting or command; empty where there is nothing to do.
    """

    check: str
    severity: Severity
    seen: str
    cause: str = ""
    remedy: str = ""


def ok(seen: str) -> Finding:
    return Finding("", Severity.OK, seen)


def note(seen: str, cause: str = "", remedy: str = "") -> Finding:
    return Finding("", Severity.NOTE, seen, cause, remedy)


def warning(seen: str, cause: str, remedy: str) -> Finding:
    return Finding("", Severity.WARNING, seen, cause, remedy)


def error(seen: str, cause: str, remedy: str) -> Finding:
    return Finding("", Severity.ERROR, seen, cause, remedy)


class CannotCheck(Exception):
    """What a check needs is not there. The finding says so, once for all the checks that need it."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding)
        self.finding = finding
