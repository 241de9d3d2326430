"""What the state server knows of events, as those who ask are told: dead letters, outcomes, counts.

For `event_store`, which reads it, and for the command line and the doctor, which show it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kombu.utils import json as kombu_json

from stoker.tasks import record
from stoker.tasks.events import MOST_BYTES, MOST_NESTED, is_nested_too_deeply
from stoker.tasks.names import shown

_LONGEST_REFUSED = 4 * MOST_BYTES
_LONGEST_SHOWN = 1000


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One rule and one event that were given up.

    Attributes:
        id: The event's.
        rule: `module:qualname`; empty if the event itself was refused.
        event: As it was published.
        error: What the last run ended with.
        runs: How many there were.
        began_at, died_at: Of the first run, and when it was given up; Unix time in seconds.
    """

    id: str
    rule: str
    event: Any
    error: str
    runs: int
    began_at: float | None
    died_at: float

    @property
    def name(self) -> str:
        """The event's name, as far as it has one."""
        return str(self.event.get("name", "")) if isinstance(self.event, dict) else ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one run. Times are Unix time in seconds.

    Attributes:
        outcome: `done`, `failed` (it runs again), `dead` or `unmatched` (there is no rule).
    """

    at: float
    outcome: str
    id: str
    name: str
    tenant_id: str | None
    rule: str
    error: str


@dataclass(frozen=True, slots=True)
class Overview:
    """The events of a namespace.

    Attributes:
        rules: The rules of the workers: name to patterns.
        counts: By outcome and rule: `done`, `failed`, `dead`; with an empty rule `unmatched`, `again` (a second copy of
            what was done), `refused` (it was no event) and `dropped` (the oldest dead letters).
        recent: The latest outcomes, newest first.
        dead: How many dead letters there are.
        unfinished: Pairs of event and rule that run, or will run again.
    """

    rules: dict[str, str]
    counts: dict[tuple[str, str], int]
    recent: tuple[Outcome, ...]
    dead: int
    unfinished: int


FIELDS = ("event", "rule", "error", "runs", "began_at", "died_at")


def letter(pair: str, found: Mapping[str, str | None]) -> DeadLetter:
    """From a record's `FIELDS`. What cannot be read is left out, and `error` says so."""
    problems = [found["error"] or ""]

    def field(name: str, convert: Any, missing: Any) -> Any:
        try:
            return record.read(found, name, convert, missing)
        except record.Damaged as damage:
            problems.append(f"its record is damaged: {damage}")
            return missing

    return DeadLetter(
        id=pair.partition(":")[0],
        rule=found["rule"] or "",
        event=field("event", _anything, None),
        runs=field("runs", record.whole, 0),
        began_at=field("began_at", record.seconds, None),
        died_at=field("died_at", record.seconds, 0.0),
        error="; ".join(filter(None, problems)),
    )


def outcome(entry_id: str, found: Mapping[str, str]) -> Outcome:
    """From an entry of the stream, whose id begins with the time in ms."""
    return Outcome(
        at=int(entry_id.partition("-")[0]) / 1000,
        outcome=found.get("outcome", ""),
        id=found.get("id", ""),
        name=found.get("name", ""),
        tenant_id=found.get("tenant") or None,
        rule=found.get("rule", ""),
        error=found.get("error", ""),
    )


def counts(found: Mapping[str, str]) -> dict[tuple[str, str], int]:
    """From the hash: `outcome|rule` to a number. What is no number is left out."""
    split = {name: name.partition("|") for name in found}
    return {(parts[0], parts[2]): number for name, parts in split.items() if (number := count(found[name]))}


def mapping_or_none(text: str | None) -> dict[str, Any] | None:
    """The JSON object in a field; None for anything else, and for what is nested too deeply to be sent."""
    try:
        found = record.read({"event": text}, "event", record.mapping, None)
    except record.Damaged:
        return None
    return None if is_nested_too_deeply(found, MOST_NESTED + 1) else found


def refused(found: Any) -> str:
    """JSON of what was refused as an event; of what cannot be sent again, a text of its beginning."""
    try:
        text = kombu_json.dumps(found)  # which reads what it had made of a message back to the same
    except (TypeError, ValueError, RecursionError):
        return json.dumps(shown(found))
    if len(text) > _LONGEST_REFUSED or is_nested_too_deeply(found, MOST_NESTED + 1):
        return json.dumps(text[:_LONGEST_SHOWN])
    return text


def rules(found: Mapping[str, str]) -> dict[str, str]:
    """The patterns of each rule, from the hash, which also has the time at which it was told, after a `|`."""
    return {name: found[name].partition("|")[0] for name in sorted(found)}


def count(text: str | None) -> int:
    """A count in a field; 0 for anything else."""
    try:
        return max(record.read({"count": text}, "count", record.whole, 0), 0)
    except record.Damaged:
        return 0


def _anything(text: str) -> Any:
    """JSON"""
    return json.loads(text)
