"""`stoker rebalance`: what it shows of a plan, what it sends, and what it refuses."""

import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from stoker.cache import ConfigError, RebalancePlan
from stoker.cache.balance import HotShard, NodeShare, SlotMove
from stoker.config import Settings
from stoker.tasks import runtime
from stoker.worker import cli, rebalance_view
from stoker.worker.app import make_app
from stoker.worker.embedded_cluster import EmbeddedCluster

PLAN = RebalancePlan(
    by="keys",
    moves=(SlotMove(7, (3, 9), "a:1", "b:1", 1200, 3_000_000),),
    nodes=(NodeShare("a:1", 0.7, 0.5, 0.5), NodeShare("b:1", 0.3, 0.5, 0.5)),
    hot=(HotShard((4,), "a:1", 0.6, 0.5),),
    seconds=2.5,
)


@pytest.fixture
def on_a_cluster(
    cache_cluster: EmbeddedCluster,
    broker_server: str,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[EmbeddedCluster]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STOKER_CACHE_URL", cache_cluster.url)
    monkeypatch.setenv("STOKER_CACHE_CLUSTER", "true")
    monkeypatch.setenv("STOKER_BROKER_URL", broker_server)
    monkeypatch.setenv("STOKER_NAMESPACE", namespace)
    make_app(Settings())
    yield cache_cluster
    runtime.current().close()


def stoker(*arguments: str) -> Result:
    return CliRunner().invoke(cli.cli, ["rebalance", *arguments], env={"COLUMNS": "200"})


def shown(plan: RebalancePlan, *hot_keys: str) -> str:
    page = StringIO()
    Console(width=200, file=page).print(rebalance_view.table(plan, hot_keys))
    return page.getvalue()


def test_a_plan_is_shown_with_its_moves_bytes_time_and_balance_before_and_after() -> None:
    text = shown(PLAN, "user:1")
    for told in (
        "70.0%",
        "50.0%",
        "3, 9",
        "1,200",
        "3.0 MB",
        "1 slot, 1,200 keys, about 3.0 MB",
        "in about 2 s",
        "━",
    ):
        assert told in text
    assert "shard 4 alone is 60% of all keys" in text
    assert "its hottest keys: user:1" in text
    empty = RebalancePlan("keys", (), PLAN.nodes, (), 0.0)
    assert "nothing to move" in shown(empty)


def test_a_plan_as_json_tells_the_same() -> None:
    told = json.loads(json.dumps(rebalance_view.as_json(PLAN, ["user:1"])))
    assert (told["keys"], told["bytes"], told["seconds"]) == (1200, 3_000_000, 2.5)
    assert told["hot_keys"] == ["user:1"]
    assert told["nodes"][0] == {"node": "a:1", "before": 0.7, "after": 0.5, "target": 0.5}


def test_with_plan_nothing_is_sent_and_without_it_a_job_is(on_a_cluster: EmbeddedCluster) -> None:
    empty = f"--weight=127.0.0.1:{on_a_cluster.primaries[0].port}=0"
    here = runtime.current()
    planned = json.loads(stoker("--plan", "--json", empty).output)
    assert planned["moves"]
    assert planned["job"] is None
    assert here.jobs.recent(5) == []
    told = stoker(empty).output
    [job] = here.jobs.recent(5)
    assert (job.kind, job.state) == ("rebalance", "queued")
    assert f"job {job.id} moves them" in told


def test_what_cannot_be_planned_is_told(on_a_cluster: EmbeddedCluster) -> None:
    assert on_a_cluster
    for weight in ("a:1", "=2", "a:1=", "a:1=two"):
        assert "write NODE=NUMBER" in stoker("--weight", weight).output
    assert "was given a weight before" in stoker("--weight", "a:1=2", "--weight", "a:1=3").output
    assert "Invalid value" in stoker("--by", "size").output
    with pytest.raises(ConfigError, match="no such primary"):
        raise stoker("--plan", "--weight", "nobody:1=2").exception or AssertionError
    with pytest.raises(ConfigError, match="cluster-slot-stats-enabled"):
        raise stoker("--plan", "--by", "load").exception or AssertionError


def test_a_cache_that_is_on_no_cluster_has_nothing_to_move(
    cache_server: str, broker_server: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOKER_CACHE_URL", cache_server)
    monkeypatch.setenv("STOKER_BROKER_URL", broker_server)
    monkeypatch.setenv("STOKER_NAMESPACE", namespace)
    make_app(Settings())
    with pytest.raises(ConfigError, match="only a cluster has slots to move"):
        raise stoker("--plan").exception or AssertionError
    runtime.current().close()
