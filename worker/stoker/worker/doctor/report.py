"""Findings for people, as sections of text, and for programs, as JSON."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stoker.worker.doctor.check import Finding, Severity
from stoker.worker.terminal import counted

_STYLE = {
    Severity.OK: "green",
    Severity.NOTE: "cyan",
    Severity.WARNING: "yellow",
    Severity.ERROR: "bold red",
}


def worst(findings: Iterable[Finding]) -> Severity:
    return max((finding.severity for finding in findings), default=Severity.OK)


def exit_code(findings: Iterable[Finding]) -> int:
    """0 if nothing has to be done, 1 with warnings, 2 with errors."""
    return max(0, worst(findings) - Severity.NOTE)


def as_json(findings: Sequence[Finding], seconds: float) -> dict[str, Any]:
    return {
        "worst": worst(findings).word,
        "seconds": round(seconds, 2),
        "findings": [{**asdict(finding), "severity": finding.severity.word} for finding in findings],
    }


def show(console: Console, findings: Iterable[Finding]) -> list[Finding]:
    """Print findings as they come, one section a check; returns them."""
    shown: list[Finding] = []
    for finding in findings:
        if not shown or shown[-1].check != finding.check:
            console.print(Text(finding.check, style="bold"))
        console.print(_row(finding))
        shown.append(finding)
    return shown


def show_sum(console: Console, findings: Sequence[Finding], seconds: float) -> None:
    counts = {s: sum(finding.severity is s for finding in findings) for s in Severity}
    told = ", ".join(counted(counts[s], s.word) for s in (Severity.ERROR, Severity.WARNING))
    console.print(Text(f"{told}, {seconds:.1f} s", style=_STYLE[worst(findings)]))


def _row(finding: Finding) -> Table:
    row = Table.grid(padding=(0, 1))
    row.add_column(width=9, no_wrap=True)
    row.add_column(overflow="fold")
    text = Text(finding.seen)
    if finding.cause:
        text.append(f"\ncause: {finding.cause}")
    if finding.remedy:
        text.append("\ndo: ", style="bold").append(finding.remedy)
    row.add_row(Text(f"  {finding.severity.word}", style=_STYLE[finding.severity]), text)
    return row
