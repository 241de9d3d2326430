"""`stoker top`: what it lists, of whom, and with what is stored."""

import json
import re
from typing import Any

import pytest
from typer.testing import CliRunner

from stoker.config import Settings
from stoker.tasks import runtime
from stoker.worker import cli
from stoker.worker.app import make_app

pytestmark = pytest.mark.usefixtures("operator")


def top(*arguments: str) -> str:
    result = CliRunner().invoke(cli.cli, ["top", *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def rows(*arguments: str) -> list[dict[str, Any]]:
    return list(json.loads(top("--json", *arguments))["keys"])


def test_the_hottest_keys_are_listed_with_share_rate_tenant_and_state() -> None:
    here = runtime.current()
    here.hot.merge({"acme": {"live:1": 600, "banned:1": 300}, None: {"absent:1": 100}})
    here.cache.set("live:1", 1, "acme")
    here.cache.set("banned:1", 1, "acme")
    here.cache.invalidate_pattern("banned:*", "acme")
    assert [(row["key"], row["tenant_id"], row["state"]) for row in rows()] == [
        ("live:1", "acme", "live"),
        ("banned:1", "acme", "banned"),
        ("absent:1", None, "absent"),
    ]
    assert rows()[0]["rate"] == pytest.approx(60, rel=0.1)
    assert [row["share"] for row in rows()] == pytest.approx([0.6, 0.3, 0.1], rel=0.02)
    text = top()
    assert re.search(r"^key +tenant +share +reads/s +now", text)
    assert re.search(r"live:1 +acme +60\.\d% +\d\d\.\d +live", text)
    assert re.search(r"absent:1 +\(shared\) +\d+\.\d% +\d+\.\d +absent", text)
    assert re.search(r"\d+ of \d+ reads/s", text)


def test_of_one_tenant_only_its_own_keys_are_listed_and_share_its_reads() -> None:
    runtime.current().hot.merge({"acme": {"a": 75, "b": 25}, "globex": {"c": 900}})
    assert [(row["key"], round(row["share"], 2)) for row in rows("--tenant", "acme")] == [
        ("a", 0.75),
        ("b", 0.25),
    ]
    assert [row["key"] for row in rows("-n", "1")] == ["c"]
    assert rows("--tenant", "nobody") == []


def test_before_anything_was_learned_it_says_what_that_takes() -> None:
    assert "no hot keys are known yet: they are learned from reads through Redis" in top()


def test_without_the_cache_the_keys_are_listed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime.current().hot.merge({None: {"a": 10}})
    monkeypatch.setenv("STOKER_CACHE_URL", "redis://127.0.0.1:1/0")
    make_app(Settings())
    assert re.search(r"a +\(shared\) .* unknown", top())
    assert "what is stored is not known:" in top()


def test_a_key_of_control_characters_does_no_harm_to_the_terminal() -> None:
    runtime.current().hot.merge({None: {"\x1b[2Jred[bold]": 10}})
    assert "\\x1b[2Jred[bold]" in top()
