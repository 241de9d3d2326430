"""What the demo calls a success, and what it can take away from the protocol."""

from dataclasses import replace
from typing import Any

import pytest

from stoker.cache import scripts
from stoker.tasks import JobStatus
from stoker.worker.demo import breaking
from stoker.worker.demo.producer import Outcome
from stoker.worker.demo.summary import Result, problems, rows


def a_job(kind: str = "warm", state: Any = "succeeded", **report: int) -> JobStatus:
    return JobStatus("7", kind, state, 1, 1, 0, 1.0, None, report, "why", 1.0, 1.0, 2.0, 2.0)


GOOD = Result(
    airports=10,
    warm={"written": 10, "errors": []},
    warm_s=2.0,
    jobs=[a_job(), a_job("sweep", deleted=4), a_job("sweep", deleted=3)],
    outcome=Outcome(direct_ms=[1.0, 1.0, 2.0]),
    reads=1000,
    stale=0,
    stray=0,
    hits=900,
    misses=100,
    told=[],
)


def test_a_run_without_a_fault_has_no_problems() -> None:
    assert list(problems(GOOD)) == []


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ({"stale": 2}, "2 stale reads"),
        ({"stale": 1}, "1 stale read"),
        ({"stray": 1}, "another airport"),
        ({"reads": 3}, "only 3 reads"),
        ({"warm": {"written": 9, "errors": ["x"]}}, "9 of 10 keys"),
        ({"jobs": [a_job(state="failed")]}, "job 7 (warm) failed: why"),
        ({"outcome": Outcome(failures=["tag: late"])}, "tag: late"),
    ],
)
def test_every_fault_is_a_problem(fault: dict[str, Any], problem: str) -> None:
    (told,) = problems(replace(GOOD, **fault))
    assert problem in told


def test_the_figures_are_those_of_the_run() -> None:
    figures = dict(rows(GOOD))
    assert figures["keys warmed"] == "10 at 5/s"
    assert figures["hit rate"] == "90.0%"
    assert figures["keys swept"] == "7"
    assert figures["time to effect, direct"].startswith("1.0 ms median, 2.0 ms p99")
    assert figures["time to effect, by job"] == "too few to tell"


def test_breaking_the_lease_changes_the_fill_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = scripts.FILL
    monkeypatch.setattr(scripts, "FILL", whole)  # put back after the test
    breaking.GUARDS["lease"]()
    assert scripts.FILL.sha != whole.sha
    assert len(whole.source.splitlines()) == len(scripts.FILL.source.splitlines()) + 1


def test_a_guard_that_is_not_there_cannot_be_taken_away_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripts, "FILL", scripts.SET)
    with pytest.raises(RuntimeError, match="does not hold the line"):
        breaking.break_lease()
