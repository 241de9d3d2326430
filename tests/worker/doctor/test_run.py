"""The doctor itself: what is bounded, what is reported, and how."""

import io
import json
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from stoker.worker import cli
from stoker.worker.doctor import report
from stoker.worker.doctor.check import Finding, Severity
from stoker.worker.doctor.run import CHECKS
from stoker.worker.embedded import free_port
from tests.worker.doctor.asking import ERROR, NOTE, WARNING, found, sole


def test_a_check_that_fails_itself_is_an_error_of_that_check(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> Iterator[Finding]:
        yield Finding("", NOTE, "as far as it came")
        raise ZeroDivisionError("oh")

    monkeypatch.setitem(CHECKS, "flower", broken)
    so_far, fault = found("flower")
    assert (so_far.check, so_far.seen) == ("flower", "as far as it came")
    assert (fault.check, fault.severity, fault.seen) == (
        "flower",
        ERROR,
        "this check failed itself: ZeroDivisionError: oh",
    )


def test_a_check_that_hangs_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def hanging(_: object) -> Iterator[Finding]:
        over.wait(30)
        yield from ()

    monkeypatch.setitem(CHECKS, "flower", hanging)
    monkeypatch.setattr("stoker.worker.doctor.run.ONE_CHECK_S", 0.1)
    assert sole("flower").seen.startswith("this check did not end within")
    over.set()


def test_flower_that_should_run_and_does_not_is_told() -> None:
    with suppress(OSError):
        assert sole("flower", flower={"port": free_port()}).severity is NOTE
        assert (
            sole("flower", flower={"port": free_port(), "password": "coal"}).remedy[:14] == "stoker flower;"
        )


def test_findings_are_grouped_by_check_with_cause_and_remedy() -> None:
    console = Console(file=io.StringIO(), width=60)
    findings = report.show(
        console,
        [
            Finding("redis", Severity.OK, "answers"),
            Finding("redis", WARNING, "seen [red]", "a cause that is long enough for two lines", "a remedy"),
            Finding("flower", NOTE, "none"),
        ],
    )
    report.show_sum(console, findings, 1.5)
    assert [line.rstrip() for line in console.file.getvalue().splitlines()] == [  # type: ignore[attr-defined]
        "redis",
        "  ok      answers",
        "  warning seen [red]",
        "          cause: a cause that is long enough for two lines",
        "          do: a remedy",
        "flower",
        "  note    none",
        "0 errors, 1 warning, 1.5 s",
    ]


@pytest.mark.parametrize(("severity", "code"), [(Severity.OK, 0), (NOTE, 0), (WARNING, 1), (ERROR, 2)])
def test_the_exit_code_tells_the_worst(severity: Severity, code: int) -> None:
    assert report.exit_code([Finding("x", Severity.OK, ""), Finding("x", severity, "")]) == code


def doctor(*arguments: str) -> Result:
    return CliRunner().invoke(cli.cli, ["doctor", *arguments])


def test_the_command_prints_json_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_CACHE_URL", "redis://me:coal-and-fire@127.0.0.1:1/0?password=coal-and-fire")
    monkeypatch.setenv("STOKER_FLOWER__PASSWORD", "coal-and-fire")
    answer = doctor("--json", "--only", "redis", "--only", "flower")
    assert answer.exit_code == 2
    printed = json.loads(answer.stdout)
    assert printed["worst"] == "error"
    assert [one["check"] for one in printed["findings"]] == ["redis", "flower"]
    assert "coal-and-fire" not in answer.output


def test_settings_that_cannot_be_used_are_findings_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_CACHE_ULR", "x")
    answer = doctor("--json")
    assert answer.exit_code == 2
    [finding] = json.loads(answer.stdout)["findings"]
    assert "did you mean STOKER_CACHE_URL?" in finding["remedy"]


def test_a_check_that_does_not_exist_is_refused_with_those_that_do() -> None:
    answer = doctor("--only", "coal")
    assert answer.exit_code == 2
    assert "'coal' is no check" in answer.output
