"""What begins a job that moves slots, and with which arguments."""

import importlib
from typing import Any

import pytest

from stoker.config import RebalanceSettings, Settings
from stoker.tasks import Rebalance, configure, events, names, runtime, send
from stoker.tasks.job import Claim
from stoker.tasks.rebalance import rebalance_when_nodes_changed
from stoker.tasks.schedule import beat_schedule
from tests.tasks.hostile import run

MODULE = importlib.import_module("stoker.tasks.rebalance")


def settings(*, cluster: bool, **rules: object) -> Settings:
    return Settings(
        cache_url="redis://127.0.0.1:1/0",
        broker_url="redis://127.0.0.1:1/0",
        cache_cluster=cluster,
        rebalance=RebalanceSettings(**rules),  # type: ignore[arg-type]
    )


def test_beat_plans_on_a_cluster_and_moves_only_where_that_is_allowed() -> None:
    assert names.REBALANCE not in beat_schedule(settings(cluster=False))
    entry = beat_schedule(settings(cluster=True))[names.REBALANCE]
    assert names.check(names.REBALANCE, entry["kwargs"]).model_dump()["act"] is False
    assert entry["options"] == {"expires": entry["schedule"]}
    allowed = beat_schedule(settings(cluster=True, act=True, by="bytes"))[names.REBALANCE]
    assert allowed["kwargs"] == {"by": "bytes", "act": True}


@pytest.mark.parametrize("cluster", [False, True])
def test_other_nodes_begin_a_plan_on_a_cluster_only(cluster: bool) -> None:
    configure(settings(cluster=cluster, by="load"))
    event = events.make("nodes.changed", {}, None, None)
    assert rebalance_when_nodes_changed(event) == (Rebalance("load", act=False) if cluster else None)
    runtime.current().close()


@pytest.mark.usefixtures("producer")
def test_a_request_joins_the_run_that_is_not_over_and_a_plan_does_not() -> None:
    first = send.rebalance(weights={"a:1": 2})
    assert send.rebalance().id == first.id
    assert send.rebalance(act=False).id != first.id


def test_a_run_that_finds_itself_told_to_stop_cancels_what_the_one_before_has_begun(
    here: runtime.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, cursor = send.rebalance(), {"at": 0, "moves": []}
    stopped: list[Any] = []
    monkeypatch.setattr(MODULE, "_stop", lambda _cache, last: stopped.append(last))
    # Given a worker that has written down where it is, is told to stop, and dies before it hears of it
    claim = here.jobs.claim(job.id)
    assert isinstance(claim, Claim)
    assert here.jobs.progress(claim, {"cursor": cursor}) == "on"
    assert job.abort()
    here.jobs.release(claim)
    # When another takes over
    state, outcome = run(names.REBALANCE, {"job_id": job.id}, job.id)
    # Then it does no more than to end what goes on by itself
    assert (state, stopped) == ("IGNORED", [cursor]), outcome
    assert job.status().state == "aborted"
