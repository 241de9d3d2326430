"""`stoker verify`: what it refuses, what it prints, when it fails, and that it leaves nothing behind."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from typer.testing import CliRunner

from stoker.worker import cli
from stoker.worker.verify import verdict
from stoker.worker.verify.harness import Outcome
from stoker.worker.verify.plan import Plan
from stoker.worker.verify.world import COUNTS
from tests.waiting import wait_until
from tests.worker.alive import alive, descendants

_VERIFY = [sys.executable, "-c", "from stoker.worker.cli import main; main()", "verify"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user whose own settings lead elsewhere."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("STOKER_CACHE_URL=redis://127.0.0.1:1/0\nSTOKER_NAMESPACE=mine\n")


@pytest.fixture
def running() -> Iterator["subprocess.Popen[str]"]:
    """A checker that is at work, with everybody it has."""
    program = subprocess.Popen(
        [*_VERIFY, "--seconds=60", "--faults=pause", "--jobs"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: len(descendants(program.pid)) > 12)
        yield program
    finally:
        program.kill()
        program.communicate()


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*_VERIFY, *arguments], capture_output=True, text=True, timeout=110, check=False)


def outcome(plan: Plan | None = None, **figures: Any) -> Outcome:
    """A run of ten seconds that was good, but for these figures."""
    good = {"reads": 9000, "hits": 5000, "loads": 900, "acks": 500, "warmed": 9, "sweeps": 9}
    with_jobs = {"job_acks": 99, "duplicates": 99, "job_sweeps": 9, "refreshes_sent": 9}
    totals = dict.fromkeys(COUNTS, 0) | good | with_jobs
    for name in set(figures) & set(totals):
        totals[name] = figures.pop(name)
    rest: dict[str, Any] = {
        "struck": {},
        "notes": [],
        "seconds": 10.0,
        "unstopped": 0,
        "unexpired": [],
    } | figures
    return Outcome(plan or Plan(seconds=10), totals, **rest)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--faults=kill,rain"], "there is no 'rain': choose of kill, pause, restart"),
        (["--break=sloth"], "there is no 'sloth': choose of lease, batch-writes, batch-place"),
        (["--url=redis://127.0.0.1:1/0", "--faults=kill"], "leave out the url"),
        (["--url=localhost"], "must specify one of the following schemes"),
        (["--faults=broker", "--no-jobs"], "the fault 'broker' needs jobs"),
        (["--strangers", "--jobs"], "strangers go without jobs"),
        (["--cluster", "--faults=restart"], "there is no 'restart': choose of kill, pause, failover, move"),
    ],
)
def test_what_cannot_be_run_is_refused_with_the_reason(arguments: list[str], told: str) -> None:
    refused = CliRunner().invoke(cli.cli, ["verify", *arguments], env={"COLUMNS": "300"})
    assert refused.exit_code == 2
    assert told in refused.stderr


def test_a_good_run_has_no_problems() -> None:
    assert [*verdict.problems(outcome())] == []
    assert [*verdict.problems(outcome(Plan(faults=["kill"], jobs=True), struck={"kill": 3}))] == []


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (outcome(stale=1), "stale values were served: 1"),
        (outcome(wrong=2), "wrong values were served: 2"),
        (outcome(errors=3), "unexpected errors: 3"),
        (outcome(refused=4), "processes that place keys alike were refused: 4"),
        (outcome(unstopped=1), "processes that hung: 1"),
        (outcome(unexpired=["{check:0}:e:x"]), "keys that never expire were left: {check:0}:e:x"),
        (outcome(reads=999), "too little was done: reads=999, at least 1000 were to be"),
        (outcome(sweeps=0), "too little was done: sweeps=0, at least 1 were to be"),
        (outcome(Plan(jobs=True), job_acks=0), "too little was done: job_acks=0, at least 5 were to be"),
        (outcome(Plan(faults=["kill"])), "too little was done: the fault 'kill' did not strike once"),
    ],
)
def test_a_bad_run_is_told_by_what_was_bad_about_it(bad: Outcome, told: str) -> None:
    assert [*verdict.problems(bad)] == [told]


def test_a_run_that_ends_at_the_first_stale_value_need_not_have_done_much() -> None:
    assert [*verdict.problems(outcome(Plan(until_stale=True), stale=1, reads=1))] == [
        "stale values were served: 1"
    ]


def test_a_run_prints_its_seed_and_figures_in_one_line() -> None:
    ended = run("--seconds=2", "--faults=kill")
    assert (ended.returncode, ended.stderr) == (0, "")
    line, *rest = ended.stdout.splitlines()
    assert rest == []
    assert re.match(r"seed=\d+ seconds=2\.\d shards=1 faults=kill reads=\d+ hits=\d+ loads=\d+ ", line)
    assert " stale=0 wrong=0 " in line
    assert re.search(r" kills=[1-9]", line)
    assert re.search(r" hit_rate=\d\d% ", line)


def test_a_run_without_a_guard_fails_and_tells_what_was_stale() -> None:
    ended = run("--seconds=20", "--no-jobs", "--faults=none", "--break=stamp", "--until-stale")
    assert (ended.returncode, ended.stderr) == (1, "")
    assert " without=stamp " in ended.stdout
    assert re.search(r"\n  stale: [\w ]+ of .+ returned \d+, acknowledged was \d+\n", ended.stdout)


def test_a_run_for_programs_is_one_json_object() -> None:
    ended = run("--seconds=2", "--faults=none", "--json", "--seed=5")
    told = json.loads(ended.stdout)
    assert (told["plan"]["seed"], told["problems"], told["totals"]["stale"]) == (5, [], 0)


@pytest.mark.slow
@pytest.mark.soak
def test_a_server_that_runs_already_is_left_as_it_was(cache_server: str) -> None:
    with redis.Redis.from_url(cache_server) as client:
        before = set(client.scan_iter())
        ended = run("--seconds=2", f"--url={cache_server}")
        assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout
        assert set(client.scan_iter()) <= before  # some of other tests have expired meanwhile


def test_a_server_that_does_not_answer_is_told_in_one_line() -> None:
    ended = run("--seconds=2", "--url=redis://127.0.0.1:1/0")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert re.fullmatch(r"stoker verify: .+127\.0\.0\.1:1.+\n", ended.stderr)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_checker_that_is_ended(
    running: "subprocess.Popen[str]", number: signal.Signals
) -> None:
    crew = descendants(running.pid)
    running.send_signal(number)
    assert running.wait(60) == (-number if number == signal.SIGKILL else 130)
    wait_until(lambda: not any(alive(pid) for pid in crew))
