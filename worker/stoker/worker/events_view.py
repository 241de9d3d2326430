"""Events as an operator sees them: tables, or JSON."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from stoker.tasks.event_record import DeadLetter, Outcome, Overview

_BAD = ("failed", "dead")


def overview(found: Overview) -> RenderableType:
    """The rules with their counts, the latest outcomes, and what else was counted."""
    names = sorted(set(found.rules) | {rule for _, rule in found.counts if rule})
    rules = Table("rule", "events", "done", "failed", "dead", box=None, pad_edge=False)
    for name in names:
        counts = (f"{found.counts.get((outcome, name), 0):,}" for outcome in ("done", "failed", "dead"))
        rules.add_row(name, found.rules.get(name, "(no worker has it)"), *counts)
    recent = Table("at", "event", "id", "tenant", "rule", "outcome", box=None, pad_edge=False)
    for one in found.recent:
        style = "red" if one.outcome in _BAD else ""
        recent.add_row(
            _moment(one.at), one.name, one.id, one.tenant_id or "", one.rule, Text(_told(one), style=style)
        )
    others = ", ".join(f"{count:,} {word}" for word, count in _others(found).items())
    return Group(rules, "", recent, "", others)


def dead(letters: list[DeadLetter]) -> RenderableType:
    """One row a letter."""
    view = Table("given up", "event", "id", "tenant", "rule", "runs", "error", box=None, pad_edge=False)
    for letter in letters:
        tenant = letter.event.get("tenant_id") if isinstance(letter.event, dict) else None
        name, whose = _as_it_came(letter.name), _as_it_came(str(tenant or ""))
        row = (_moment(letter.died_at), name, letter.id, whose, letter.rule or "(refused)")
        view.add_row(*row, f"{letter.runs}", Text(letter.error, style="red"))
    return view


def as_json(found: Overview) -> dict[str, Any]:
    """The same for programs; times are Unix time in seconds."""
    counted = {
        name: {outcome: count for (outcome, rule), count in found.counts.items() if rule == name}
        for name in {*found.rules, *(rule for _, rule in found.counts if rule)}
    }
    return {
        "rules": {
            name: {"events": found.rules.get(name), **counts} for name, counts in sorted(counted.items())
        },
        "counts": _others(found),
        "recent": [asdict(outcome) for outcome in found.recent],
    }


def letter_as_json(letter: DeadLetter) -> dict[str, Any]:
    return asdict(letter)


def _others(found: Overview) -> dict[str, int]:
    counted = {
        "unmatched": found.counts.get(("unmatched", ""), 0),
        "refused": found.counts.get(("refused", ""), 0),
        "second copies": found.counts.get(("again", ""), 0),
    }
    return {**counted, "unfinished": found.unfinished, "dead letters": found.dead}


def _told(one: Outcome) -> str:
    return one.outcome + (f": {one.error}" if one.error else "")


def _as_it_came(text: str) -> Text:
    """Of a refused event, which may say anything there: what looks like markup, or what no terminal can show."""
    return Text(text.encode(errors="backslashreplace").decode())


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
