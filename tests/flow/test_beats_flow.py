"""What real beats send: invalidations of the settings; and two of them, which do no harm."""

import json
import os
import signal
import time

import pytest
import redis

from stoker.cache import Cache
from stoker.config import Settings
from stoker.tasks import plan_changes, runtime, send
from stoker.tasks.plan_record import PlanRecord
from stoker.worker.processes import Child
from tests.flow import brief
from tests.flow.conftest import Deployment
from tests.flow.effects import loaded_again
from tests.waiting import wait_until

KEY = "brief:1"
OFTEN = {
    "STOKER_LOADERS": "tests.flow.loaders,tests.flow.brief",
    "STOKER_BEAT__TICK_EVERY": "0.1",
    "STOKER_BEAT__REAP_EVERY": "0.1",
    "STOKER_BEAT__SWEEP_EVERY": "0.1",
    "STOKER_BEAT__EVICT_EVERY": "0.1",
}
INVALIDATIONS = [
    {"name": "news", "pattern": "news:*", "tenant_id": "acme", "every": "1s"},
    {"name": "menu", "keys": ["menu"], "tags": ["prices"], "every": "1s"},
]


@pytest.mark.slow
@pytest.mark.soak
def test_invalidations_of_the_settings_are_made_by_the_clock_by_two_beats(
    deployment: Deployment, other_cache: Cache
) -> None:
    scheduled = {"STOKER_SCHEDULED_INVALIDATIONS": json.dumps(INVALIDATIONS)}
    deployment.worker("a", **scheduled)
    for _ in range(2):  # as the clock goes on, not once
        other_cache.set("news:1", 1, tenant_id="acme", ttl=600)
        other_cache.set("news:1", 1, ttl=600)
        other_cache.set("menu", 1, ttl=600)
        other_cache.set("tea", 1, ttl=600, tags=["prices"])
        if deployment.newest("invalidate") is None:
            for name in "ab":
                deployment.launch(f"beat-{name}", "beat", **scheduled)
        wait_until(lambda: other_cache.get("news:1", tenant_id="acme") is None)
        wait_until(lambda: other_cache.get("menu") is None and other_cache.get("tea") is None)
        assert other_cache.get("news:1") == 1
    made = [job for job in deployment.jobs.recent(100) if job.kind == "invalidate" and job.final]
    assert {job.state for job in made} == {"succeeded"}


def together(beats: list[Child]) -> None:
    """Stop them until each has something to send, so that they go on with it at once."""
    for act in (signal.SIGSTOP, signal.SIGCONT):
        for beat in beats:
            os.killpg(beat.pid, act)
        time.sleep(0.15)


def plan() -> PlanRecord:
    return runtime.current().plans.read().plans["brief"]


def loaded(settings: Settings) -> int:
    with redis.Redis.from_url(str(settings.cache_url)) as client:
        return brief.runs(client, settings.namespace, KEY)


@pytest.mark.slow
@pytest.mark.soak
def test_two_beats_start_each_run_once_and_the_reaper_s_and_the_sweeper_s_work_is_done_once(
    deployment: Deployment, other_cache: Cache
) -> None:
    # Given two beats that send everything ten times a second each, and workers
    worker = deployment.worker("a", 2, **OFTEN)
    beats = [deployment.start(f"beat-{name}", "beat", ready="Starting", **OFTEN) for name in "ab"]
    # When a plan is due each second for a while, and they tick at the same moments
    store = runtime.current().plans
    first = plan_changes.add(store, "brief", {"keys": [KEY], "every": "1s"}).next_ms
    for times in range(9):
        wait_until(lambda times=times: loaded(deployment.settings) >= times)  # type: ignore[misc]
        together(beats)
    # and a worker is killed in the middle of a job, so that both reapers find it
    job = send.warm([f"slow:{number}" for number in range(400)])
    deployment.wait_for(job, lambda status: status.done >= 100)
    killed = {call.pid for call in deployment.calls()}
    deployment.kill(worker)
    other_cache.set_many({f"dead:{number}": 0 for number in range(300)}, ttl=600)
    other_cache.invalidate_pattern("dead:*")
    deployment.worker("b", 2, **OFTEN)
    # Then that job is done once, by one run after the other, and what was banned is swept
    assert job.wait(timeout=60).done == 400
    assert loaded_again(deployment.calls(), killed) == {}
    wait_until(lambda: deployment.entries() <= 401)
    # And the plan ran once for each time that it was due, but for those that are told as missed
    plan_changes.pause(store, "brief")
    wait_until(lambda: plan().outcome and plan().taken_ms is None)
    last = plan()
    assert first is not None
    assert last.next_ms is not None
    due = (last.next_ms - first) // 1000
    assert due >= 8
    assert loaded(deployment.settings) == due - last.missed, (due, last.missed)
    assert deployment.jobs.dead(9) == []
