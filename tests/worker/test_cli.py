"""The `stoker` command: what it prints, and what it says of wrong input."""

import json
import os
import re
from typing import NoReturn

import pytest
from typer.testing import CliRunner, Result

from stoker.cache import ConfigError
from stoker.tasks import JobLost, runtime, send
from stoker.tasks.job import ANY
from stoker.worker import cli

pytestmark = pytest.mark.usefixtures("operator")


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli.cli, arguments, env={"COLUMNS": "200"})


def test_jobs_are_listed_newest_first_and_one_is_shown_with_its_report() -> None:
    first, second = send.sweep(), send.warm(["user:1"])
    runtime.current().jobs.finish(first.id, "failed", ANY, {"error": "no coal", "report": {"deleted": 7}})
    listed = invoke("jobs").stdout
    assert listed.index(second.id) < listed.index(first.id)
    assert "queued" in listed
    shown = invoke("jobs", first.id).stdout
    assert "no coal" in shown
    assert shown.split()[-4:] == ["deleted", "7", "no", "coal"]


def test_jobs_that_were_given_up_are_listed_with_time_and_reason() -> None:
    dead, failed = send.sweep(), send.warm(["user:1"])
    runtime.current().jobs.finish(dead.id, "failed", ANY, {"error": "no coal"}, dead=True)
    runtime.current().jobs.finish(failed.id, "failed", ANY, {"error": "no water"})
    listed = invoke("jobs", "--dead").stdout
    assert re.search(rf"{dead.id} +sweep +\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d \S+ +0 +no coal", listed)
    assert failed.id not in listed
    assert [job["error"] for job in json.loads(invoke("jobs", "--dead", "--json").stdout)] == ["no coal"]


def test_jobs_as_json_are_for_programs() -> None:
    job = send.warm(["user:1"])
    assert json.loads(invoke("jobs", job.id, "--json").stdout)["state"] == "queued"
    assert [one["id"] for one in json.loads(invoke("jobs", "--json").stdout)] == [job.id]


def test_a_job_can_be_told_to_stop() -> None:
    job = send.warm(["user:1"])
    assert "was told to stop" in invoke("jobs", "--abort", job.id).stdout
    assert job.status().state == "aborted"
    assert invoke("jobs", "--abort", "nonsense").exit_code == 1


def test_a_job_that_does_not_exist_is_an_error_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert isinstance(invoke("jobs", "nonsense").exception, JobLost)
    monkeypatch.setattr("sys.argv", ["stoker", "jobs", "nonsense"])
    with pytest.raises(SystemExit, match=r"^stoker: job nonsense: the state server does not know it"):
        cli.main()


def test_config_prints_every_setting_with_its_source_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_FLOWER__PASSWORD", "coal-and-fire")
    found = {one["name"]: one for one in json.loads(invoke("config", "--json").stdout)}
    assert found["STOKER_FLOWER__PASSWORD"] == {
        "name": "STOKER_FLOWER__PASSWORD",
        "value": "***",
        "source": "environment",
    }
    assert found["STOKER_JOB__BATCH"]["source"] == "default"
    table = invoke("config").stdout
    assert "STOKER_JOB__BATCH" in table
    assert "coal-and-fire" not in table


def test_config_shows_values_as_they_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    given = {"LOADERS": "shop,prices", "SHARD_PINS": '{"acme": 3}', "NEAR_ALL": "false", "LEASE": "2.5"}
    for name, value in given.items():
        monkeypatch.setenv(f"STOKER_{name}", value)
    lines = [line.split("  ") for line in invoke("config").stdout.splitlines()]
    table = {line[0]: next(filter(None, line[1:])).strip() for line in lines if line[0].startswith("STOKER_")}
    assert {name: table[f"STOKER_{name}"] for name in given} == given


def test_a_worker_serves_the_queues_it_is_given_in_that_order(
    monkeypatch: pytest.MonkeyPatch, namespace: str
) -> None:
    started: list[list[str]] = []

    def execute(_: str, arguments: list[str]) -> NoReturn:
        started.append(arguments)
        raise SystemExit(0)

    monkeypatch.setattr(os, "execv", execute)
    monkeypatch.setenv("REMAP_SIGTERM", "")  # so that what the command sets ends with the test
    assert invoke("worker", "-q", "warm", "-q", "invalidate", "--concurrency", "3").exit_code == 0
    assert f"--queues={namespace}.warm,{namespace}.invalidate" in started[0]
    assert "--concurrency=3" in started[0]


def test_a_queue_that_does_not_exist_is_an_error() -> None:
    error = invoke("worker", "-q", "coal").exception
    assert isinstance(error, ConfigError)
    assert str(error) == "queue='coal': choose from invalidate, events, refresh, warm, maintenance"
