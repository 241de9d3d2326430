"""`stoker events`: what it lists, and running dead letters again."""

import json

import pytest
from typer.testing import CliRunner

from stoker.config import Settings
from stoker.tasks import events, rules, runtime
from stoker.tasks.event_store import Claimed
from stoker.worker import cli
from stoker.worker.app import make_app

RULE = "shop.rules:user_updated"


@pytest.fixture(autouse=True)
def _environment(operator: pytest.MonkeyPatch) -> None:
    operator.setattr(rules, "_registered", {})
    make_app(Settings())


def stoker(*arguments: str, exit_code: int = 0) -> str:
    result = CliRunner().invoke(cli.cli, ["events", *arguments], env={"COLUMNS": "250"})
    assert result.exit_code == exit_code, (result.output, result.exception)
    return result.output


def dies(error: str = "ValueError: no coal") -> str:
    """An event of which a rule made a dead letter; returns its id."""
    event = events.make("user.updated", {"id": 7}, "acme", None)
    store = runtime.current().events
    claim = store.claim(event, RULE)
    assert isinstance(claim, Claimed)
    store.end(event, RULE, claim.token, "dead", error)
    return event.id


def test_rules_are_listed_with_what_became_of_their_events() -> None:
    store = runtime.current().events
    store.announce({RULE: "user.*"})
    store.note(events.make("nobody.cares", {}, None, None), "unmatched")
    dies()
    shown = stoker()
    for part in (
        RULE,
        "user.*",
        "nobody.cares",
        "unmatched",
        "acme",
        "dead: ValueError: no coal",
        "1 dead letters",
    ):
        assert part in shown
    found = json.loads(stoker("--json"))
    assert found["rules"] == {RULE: {"events": "user.*", "dead": 1}}
    assert found["counts"] == {
        "unmatched": 1,
        "refused": 0,
        "second copies": 0,
        "unfinished": 0,
        "dead letters": 1,
    }
    assert [outcome["outcome"] for outcome in found["recent"]] == ["dead", "unmatched"]


def test_dead_letters_are_listed_with_their_reason_and_run_again() -> None:
    first, second = dies(), dies("KeyError: 'name'")
    shown = stoker("dead")
    assert first in shown
    assert "KeyError: 'name'" in shown
    assert {letter["id"] for letter in json.loads(stoker("dead", "--json"))} == {first, second}
    assert stoker("replay", first) == f"event {first} is run again by {RULE}\n"
    assert {letter["id"] for letter in json.loads(stoker("dead", "--json"))} == {second}
    stoker("replay", "--all")
    assert json.loads(stoker("dead", "--json")) == []
    assert runtime.current().events.overview().unfinished == 2


def test_what_could_not_be_run_is_said_and_holds_up_no_other() -> None:
    store = runtime.current().events
    good = [dies()]
    store.refuse("no mapping", "it is no event")
    good.append(dies())
    shown = stoker("replay", "--all", exit_code=1)
    assert shown.count("is run again") == 2
    assert "cannot be run again: stoker.react: event='no mapping': Input should be a valid dict" in shown
    assert [letter["event"] for letter in json.loads(stoker("dead", "--json"))] == ["no mapping"]
    assert store.overview().unfinished == len(good)


def test_a_refused_event_is_listed_whatever_it_says() -> None:
    runtime.current().events.refuse({"name": "[/x] \ud800", "tenant_id": "[/y]"}, "it is no event")
    shown = stoker("dead")
    assert "[/x] \\ud800" in shown
    assert "[/y]" in shown


def test_what_cannot_be_replayed_is_said() -> None:
    assert stoker("replay", "nothing", exit_code=1) == "there is no dead letter of event nothing\n"
    assert "name an event, or give --all" in stoker("replay", exit_code=2)
    assert "name an event, or give --all" in stoker("replay", "x", "--all", exit_code=2)
    assert stoker("replay", "--all") == "there is no dead letter\n"
