"""What begins a job that moves slots, and with which arguments."""

import importlib
from collections.abc import Generator
from typing import Any

import pytest

from stoker.cache import Cache, CacheUnavailable, Step
from stoker.config import RebalanceSettings, Settings
from stoker.tasks import Rebalance, configure, events, names, runtime, send
from stoker.tasks.base import MAX_STARTS, MAX_TRIES
from stoker.tasks.coordinator import MOST_STOPPED
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


LAST: dict[str, dict[str, Any]] = {
    "it kills who runs it": {"starts": MAX_STARTS},
    "the cache stays away": {"tries": MAX_TRIES},
    "its arguments are of a later version": {"args": '{"version": 99}'},
    "a bug": {},
}
"""What the record of a job says whose next run is its last, and why."""


@pytest.mark.parametrize("why", LAST)
@pytest.mark.parametrize("in_vain", [False, True])
def test_a_job_that_fails_or_is_given_up_first_cancels_its_move(
    here: runtime.Runtime, monkeypatch: pytest.MonkeyPatch, why: str, in_vain: bool
) -> None:
    job, cursor = send.rebalance(), {"at": 0, "moves": []}
    stopped: list[Any] = []

    def fail(*_: object) -> Generator[Step[Any], None, None]:
        raise ValueError(why) if why == "a bug" else CacheUnavailable("redis", why)

    def stop(_: Cache, last: Any) -> None:
        stopped.append((last, job.status().state))
        if in_vain:
            raise CacheUnavailable("redis", "its node is away")

    monkeypatch.setattr(MODULE, "_steps", fail)
    monkeypatch.setattr(MODULE, "_stop", stop)
    # Given a job whose move is under way, and whose next run will be its last
    claim = here.jobs.claim(job.id)
    assert isinstance(claim, Claim)
    here.jobs.progress(claim, {"cursor": cursor, "unattended": 1, **LAST[why]})
    here.jobs.release(claim)
    # When that runs
    state, _ = run(names.REBALANCE, {"job_id": job.id}, job.id)
    # Then the move is cancelled before the job is over, which says what was not, and is not in another's way
    assert (state, stopped) == ("FAILURE", [(cursor, "running")])
    status = job.status()
    assert status.state == "failed"
    assert ("not stopped: CacheUnavailable: redis: its node is away" in status.error) == in_vain
    assert [dead.id for dead in here.jobs.dead(9)] == ([] if why == "a bug" else [job.id])
    assert send.rebalance().id != job.id


def test_what_kills_who_stops_it_too_is_not_stopped_for_ever(
    here: runtime.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = send.rebalance()
    stopped: list[Any] = []
    monkeypatch.setattr(MODULE, "_stop", lambda _cache, last: stopped.append(last))
    claim = here.jobs.claim(job.id)
    assert isinstance(claim, Claim)
    here.jobs.progress(claim, {"cursor": {"at": 0, "moves": []}, "unattended": 1, "starts": MOST_STOPPED})
    here.jobs.release(claim)
    run(names.REBALANCE, {"job_id": job.id}, job.id)
    assert (job.status().state, stopped) == ("failed", [])
