"""`stoker reshard`: what it asks, and what it says of wrong input."""

import pytest
from typer.testing import CliRunner

from stoker.tasks import InvalidArguments
from stoker.worker import cli


@pytest.fixture(autouse=True)
def _environment(
    cache_server: str, broker_server: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOKER_CACHE_URL", cache_server)
    monkeypatch.setenv("STOKER_BROKER_URL", broker_server)
    monkeypatch.setenv("STOKER_NAMESPACE", namespace)


def test_nothing_is_sent_unless_the_operator_says_yes(namespace: str) -> None:
    result = CliRunner().invoke(cli.cli, ["reshard", "--num-shards", "8"], input="n\n")
    assert result.exit_code == 1
    assert f"All that namespace {namespace} holds will be misses" in result.output
    assert "job" not in result.output


@pytest.mark.parametrize("pin", ["acme", "=3", "acme=", "acme=three", "acme=-1"])
def test_a_pin_that_is_none_is_refused(pin: str) -> None:
    result = CliRunner().invoke(cli.cli, ["reshard", "--pin", pin, "--yes"], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert "write TENANT=SHARD, such as --pin acme=3" in result.output


def test_to_change_nothing_is_refused() -> None:
    result = CliRunner().invoke(cli.cli, ["reshard", "--yes"])
    assert isinstance(result.exception, InvalidArguments)
    assert "name what is to change" in str(result.exception)
