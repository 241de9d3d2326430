"""`stoker warm`, `sweep` and `evict` with a real worker, as an operator runs them."""

import json
import re

import pytest
from typer.testing import CliRunner, Result

from stoker.cache import Cache
from stoker.worker import cli
from tests.flow.conftest import Deployment
from tests.waiting import wait_until


def stoker(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(cli.cli, arguments, stdin, env={"COLUMNS": "200"})


def test_an_operator_warms_invalidates_sweeps_and_evicts_and_sees_what_became_of_it(
    deployment: Deployment, other_cache: Cache
) -> None:
    # Given that no worker runs, what was asked for is shown as queued
    asked = stoker("warm", "slow:1", "--no-wait")
    assert re.fullmatch(r"job [0-9a-f-]{36} is queued\n", asked.stdout)
    deployment.worker()
    # Then with one
    warmed = stoker("warm", "-", "--tenant", "acme", stdin="slow:1\nslow:2\n\nslow:3\n")
    assert warmed.exit_code == 0, warmed.output
    assert re.search(r"^written +3", warmed.stdout, re.MULTILINE)
    assert other_cache.get("slow:3", "acme") == {"number": 3}
    job_id = asked.stdout.split()[1]
    assert "succeeded" in stoker("jobs", job_id, "--follow").stdout
    stoker("invalidate", "--pattern", "slow:*", "--tenant", "acme")
    swept = stoker("sweep", "--json")
    assert swept.exit_code == 0, swept.output
    assert json.loads(swept.stdout)["state"] == "succeeded"
    wait_until(lambda: deployment.entries() == 1)
    evicted = stoker("evict", "--target-bytes", "0")
    assert re.search(r"^reason +dropped all it may", evicted.stdout, re.MULTILINE)
    assert deployment.entries() == 0
    # And a job that fails says so by its exit code too
    failed = stoker("warm", "broken:1")
    assert failed.exit_code == 1
    assert "no coal for 1" in failed.stdout


def test_who_stops_looking_leaves_the_job_alone(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(deployment.jobs), "wait", interrupted)
    left = stoker("sweep")
    assert left.exit_code == 130
    assert re.search(r"job [0-9a-f-]{36} goes on; to stop it: {2}stoker jobs --abort", left.stderr)
    newest = deployment.newest("sweep")
    assert newest is not None
    assert newest.state == "queued"
