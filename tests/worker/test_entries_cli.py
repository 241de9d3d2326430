"""`stoker get`, `explain` and `invalidate`: what they show and do, without a worker."""

import json
import re

import pytest
from typer.testing import CliRunner, Result

from stoker.cache import Cache
from stoker.config import Settings
from stoker.tasks import runtime
from stoker.worker import cli
from stoker.worker.app import make_app

pytestmark = pytest.mark.usefixtures("operator")


@pytest.fixture
def cache() -> Cache:
    return runtime.current().cache


def stoker(*arguments: str) -> Result:
    return CliRunner().invoke(cli.cli, arguments, env={"COLUMNS": "200"})


def failure(*arguments: str) -> str:
    """What `stoker` says when it ends with an error that the user can put right."""
    result = stoker(*arguments)
    assert isinstance(result.exception, Exception)
    return str(result.exception)


def test_a_value_is_printed_as_json_and_that_there_is_none_by_the_exit_code(cache: Cache) -> None:
    cache.set("user:1", {"name": "Zoë", "ids": [1, 2]}, "acme")
    found = stoker("get", "user:1", "--tenant", "acme")
    assert found.exit_code == 0
    assert json.loads(found.stdout) == {"name": "Zoë", "ids": [1, 2]}
    missing = stoker("get", "user:1")
    assert (missing.exit_code, missing.stdout) == (1, "")
    assert "user:1, its entry is absent" in missing.stderr
    cache.invalidate_pattern("user:*", "acme")
    assert "its entry is banned" in stoker("get", "user:1", "--tenant", "acme").stderr
    cache.set("none", None)
    assert stoker("get", "none").stdout == "null\n"


def test_explain_shows_state_and_tags_and_no_control_characters(cache: Cache) -> None:
    cache.set("user:\x1b1", 1, tags=["a", "b"])
    text = stoker("explain", "user:\x1b1").stdout
    assert re.search(r"^state +live", text, re.MULTILINE)
    assert re.search(r"^tags +a, b", text, re.MULTILINE)
    assert "\x1b" not in text
    facts = json.loads(stoker("explain", "user:\x1b1", "--json").stdout)
    assert (facts["state"], facts["tags"]) == ("live", ["a", "b"])


def test_a_dry_run_names_what_would_go_and_invalidates_nothing(cache: Cache) -> None:
    cache.set_many({f"user:{n}": n for n in range(12)}, "acme", tags=["users"])
    cache.set("post:1", 1, "acme")
    shown = stoker("invalidate", "--dry-run", "--pattern", "user:*", "--tenant", "acme")
    assert shown.exit_code == 0
    assert shown.stdout.startswith("12 entries would be invalidated; nothing was\n  user:")
    assert shown.stdout.endswith("\n  ...\n")
    for arguments, entries in (
        (("user:1", "user:1", "absent"), 1),
        (("post:1", "--tag", "users"), 13),
        (("--everything",), 13),
        (("--tag", "nobody"), 0),
    ):
        found = stoker("invalidate", "--dry-run", "--json", "--tenant", "acme", *arguments)
        assert json.loads(found.stdout)["entries"] == entries, arguments
    assert len(cache.get_many([f"user:{n}" for n in range(12)], "acme")) == 12


def test_an_invalidation_is_in_effect_at_once_and_asks_for_a_sweep(cache: Cache) -> None:
    for key in ("user:1", "user:2", "post:1", "post:2"):
        cache.set(key, 1, "acme", tags=[f"tag of {key}"])
    done = stoker(
        *(
            "invalidate",
            "user:1",
            "absent",
            "--pattern",
            "post:1*",
            "--tag",
            "tag of user:2",
            "--tenant",
            "acme",
        )
    )
    assert done.exit_code == 0, done.output
    assert done.stdout == (
        "invalidated: pattern post:1*, what is tagged tag of user:2, 2 keys, 1 not there\n"
    )
    assert set(cache.get_many(["user:1", "user:2", "post:1", "post:2"], "acme")) == {"post:2"}
    assert [job.kind for job in runtime.current().jobs.recent(10)] == ["sweep"]
    stoker("invalidate", "--everything", "--tenant", "acme")
    assert cache.get("post:2", "acme") is None


def test_without_a_broker_it_is_in_effect_all_the_same(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.set("user:1", 1)
    monkeypatch.setenv("STOKER_BROKER_URL", "redis://127.0.0.1:1/0")
    make_app(Settings())
    done = stoker("invalidate", "--pattern", "user:*")
    assert done.exit_code == 0
    assert "given back by the next sweep; none could be asked for" in done.stderr
    assert runtime.current().cache.get("user:1") is None


def test_what_cannot_be_done_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "name what to invalidate" in failure("invalidate")
    assert "name the tenant" in failure("invalidate", "--everything")
    assert "user:[" in failure("invalidate", "--pattern", "user:[")
    assert "--follow: say which job" in stoker("jobs", "--follow").output
    monkeypatch.setenv("STOKER_CACHE_URL", "redis://127.0.0.1:1/0")
    for arguments in (("get", "a"), ("explain", "a"), ("invalidate", "a"), ("invalidate", "a", "--dry-run")):
        make_app(Settings())
        assert "127.0.0.1:1" in failure(*arguments), arguments
    monkeypatch.delenv("STOKER_CACHE_URL")
    make_app(Settings())
    assert "STOKER_CACHE_URL=None: name the cache server" in failure("get", "a")
