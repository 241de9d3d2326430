"""The command `stoker doctor`: settings, checks, report, exit code."""

import json
import sys
import time
from collections.abc import Iterator, Sequence

import typer
from rich.console import Console

from stoker.config import InvalidSettings, Settings
from stoker.worker.doctor import report
from stoker.worker.doctor.check import Finding, Severity
from stoker.worker.doctor.run import CHECKS, diagnose


def run(only: Sequence[str], as_json: bool) -> int:
    """Print what is found; return the exit code.

    Raises:
        typer.BadParameter: There is no such check.
    """
    for name in only:
        if name not in CHECKS:
            raise typer.BadParameter(f"{name!r} is no check; choose from {', '.join(CHECKS)}")
    began = time.monotonic()
    if as_json:
        findings = list(_findings(only))
        sys.stdout.write(json.dumps(report.as_json(findings, time.monotonic() - began), indent=2) + "\n")
    else:
        console = Console(highlight=False)
        findings = report.show(console, _findings(only))
        report.show_sum(console, findings, time.monotonic() - began)
    return report.exit_code(findings)


def _findings(only: Sequence[str]) -> Iterator[Finding]:
    try:
        settings = Settings()
    except InvalidSettings as invalid:
        for problem in invalid.problems:
            yield Finding(
                "settings",
                Severity.ERROR,
                f"{problem.field}={problem.value!r}",
                "it cannot be used",
                problem.remedy,
            )
        return
    yield from diagnose(settings, only)
