"""`stoker plans`: what it lists, and what it says of wrong input."""

import json
import re
from typing import Any

import pytest
from typer.testing import CliRunner

from stoker.config import Settings
from stoker.tasks import JobHandle, PlanError, runtime
from stoker.tasks.job import ANY
from stoker.tasks.tick import start_due
from stoker.worker import cli
from stoker.worker.app import make_app


@pytest.fixture(autouse=True)
def _environment(operator: pytest.MonkeyPatch) -> None:
    operator.setenv("STOKER_WARM_PLANS", '{"home": {"keys": ["home"], "cron": "0 3 * * *"}}')
    make_app(Settings())


def stoker(*arguments: str) -> str:
    result = CliRunner().invoke(cli.cli, ["plans", *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def refusal(*arguments: str) -> str:
    result = CliRunner().invoke(cli.cli, ["plans", *arguments], env={"COLUMNS": "200"})
    assert result.exit_code != 0
    return str(result.exception) if isinstance(result.exception, PlanError) else result.output


def listed(name: str) -> dict[str, Any]:
    return next(row for row in json.loads(stoker("--json"))["plans"] if row["name"] == name)


def test_a_plan_is_added_changed_paused_resumed_run_and_removed() -> None:
    added = ("add", "nightly", "--template", "p:{id}:{lang}", "--param", "id=1, 2", "--param", "lang=en,de")
    assert stoker(*added, "--tenant", "acme", "--every", "90m") == "plan nightly is added: every 90m\n"
    row = listed("nightly")
    assert row["spec"]["params"] == {"id": ["1", "2"], "lang": ["en", "de"]}
    assert (row["source"], row["spec"]["tenants"], row["paused"]) == ("operator", ["acme"], False)
    assert stoker("change", "nightly", "--cron", "0 3 * * *", "--on-startup") == (
        "plan nightly: cron 0 3 * * *, at start\n"
    )
    assert stoker("change", "nightly", "--on-demand", "--no-on-startup") == "plan nightly: on demand\n"
    stoker("pause", "nightly")
    assert re.search(r"nightly +operator +on demand +paused", stoker())
    stoker("resume", "nightly")
    assert not listed("nightly")["paused"]
    job_id = stoker("run", "nightly").split()[-1]
    assert JobHandle(job_id).status().state == "queued"
    assert listed("nightly")["outcome"] == "queued"
    stoker("remove", "nightly")
    assert "nightly" not in stoker()


def test_the_list_says_when_a_plan_runs_next_how_its_last_run_ended_and_what_was_missed() -> None:
    here = runtime.current()
    start_due(here)
    assert re.search(r"home +settings +cron 0 3 \* \* \* +in \d+ s", stoker())
    stoker("change", "home", "--every", "30s")
    job_id = stoker("run", "home").split()[-1]
    here.jobs.finish(job_id, "failed", ANY, {"error": "no coal"})
    here.plans.update("home", lambda plan, now_ms: plan and plan.with_(next_ms=now_ms - 40_000))
    start_due(here)
    row = listed("home")
    assert (row["changed"], row["schedule"], row["missed"]) == (["cron", "every"], "every 30s", 1)
    assert re.search(r"home +settings \(changed\) +every 30s +in \d+ s +queued +1 \(last 20", stoker())
    here.jobs.finish(row["job"], "failed", ANY, {"error": "no coal"})
    here.plans.update("home", lambda plan, now_ms: plan and plan.with_(next_ms=now_ms + 9_000))
    start_due(here)
    assert re.search(r"failed 20\d\d-.* UTC: no coal", stoker())
    assert stoker("change", "home", "--as-defined") == "plan home: cron 0 3 * * *\n"


def test_limits_are_set_shown_changed_and_taken_away() -> None:
    added = ("add", "sale", "--keys", "k", "--all-tenants", "--rate", "1500", "--concurrency", "2")
    assert stoker(*added) == "plan sale is added: on demand; 1,500 keys/s, 2 at once\n"
    assert listed("sale")["spec"] == {"keys": ["k"], "tenants": "all", "rate": 1500.0, "concurrency": 2}
    assert re.search(r"sale +operator +on demand +1,500 keys/s, 2 at once", stoker())
    assert stoker("change", "sale", "--unlimited", "--rate", "0.5") == "plan sale: on demand; 0.5 keys/s\n"
    assert listed("sale")["limits"] == {"rate": 0.5, "concurrency": None}
    # Of a plan in settings they are kept beside what the settings say, and do not put it off
    start_due(runtime.current())
    due = listed("home")["next"]
    assert stoker("change", "home", "--rate", "20") == "plan home: cron 0 3 * * *; 20 keys/s\n"
    assert (listed("home")["changed"], listed("home")["next"]) == (["rate"], due)
    assert stoker("change", "home", "--unlimited") == "plan home: cron 0 3 * * *\n"
    assert listed("home")["changed"] == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("add", "a"), "plan 'a': give keys, or a template with params"),
        (("add", "a b", "--keys", "k"), "plan 'a b': a plan's name is 1 to 64 of"),
        (("add", "a", "--keys", "k,"), "plan 'a': keys.1: key '': must not be empty"),
        (("add", "a", "--keys", "k", "--every", "5"), "plan 'a': every='5': write a number and its unit"),
        (("add", "a", "--keys", "k", "--every", "5m", "--cron", "* * * * *"), "give every or cron, not both"),
        (("add", "a", "--template", "p:{id}", "--param", "id"), "--param 'id': write FIELD=VALUE,VALUE"),
        (("add", "a", "--template", "p:{id}", "--param", "ids=1"), "give params for {id} of the template"),
        (("add", "a", "--keys", "k", "--tenant", ""), "tenant_id '': must not be empty"),
        (
            ("add", "a", "--keys", "k", "--priority", "11"),
            "priority=11: Input should be less than or equal to 9",
        ),
        (("run", "nothing"), "plan 'nothing': there is no such plan"),
        (("remove", "home"), "workers define it in their settings and would bring it back; pause it instead"),
        (("change", "home", "--keys", "k"), "only when it runs and how fast can be changed"),
        (("change", "home", "--rate", "0"), "rate=0.0: Input should be greater than or equal to 0.01"),
        (("add", "a", "--keys", "k", "--concurrency", "0"), "concurrency=0: Input should be greater than"),
        (
            ("add", "a", "--keys", "k", "--tenant", "b", "--all-tenants"),
            "--tenant or --all-tenants, not both",
        ),
        (("change", "home"), "plan 'home': say what to change"),
        (("nonsense",), "No such command 'nonsense'"),
    ],
)
def test_wrong_input_is_refused_with_the_reason(arguments: tuple[str, ...], told: str) -> None:
    start_due(runtime.current())
    assert told in refusal(*arguments)
