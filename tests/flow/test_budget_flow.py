"""The origin meters itself: three workers, two of them killed, never ask more of it than they may."""

import json
from typing import Any

import pytest
import redis

from stoker.tasks import send
from tests.flow.conftest import Deployment
from tests.flow.loaders import METERED_AT_ONCE, METERED_RATE, meter_key

KEYS = 300
JOBS = 6


def metered(deployment: Deployment) -> list[list[Any]]:
    with redis.Redis.from_url(str(deployment.settings.cache_url)) as client:
        return [json.loads(line) for line in client.lrange(meter_key(deployment.settings.namespace), 0, -1)]


@pytest.mark.slow
def test_the_origin_never_sees_more_than_rate_and_concurrency_allow(deployment: Deployment) -> None:
    shared = {"STOKER_MAX_LOAD": "2", "STOKER_JOB__LANES": "4", "STOKER_JOB__HELPERS": "2"}
    workers = [deployment.worker(name, **shared) for name in ("a", "b", "c")]
    jobs = [send.warm([f"metered:{job}{n:04}" for n in range(KEYS)]) for job in range(1, JOBS + 1)]
    for job, victim in zip(jobs, workers[:2], strict=False):
        deployment.wait_for(job, lambda status: status.done > 30)
        deployment.kill(victim)
    for job in jobs:
        assert job.wait(timeout=60).report["failed"] == 0
    events = sorted(metered(deployment), key=lambda event: float(event[1]))
    begun = [(float(at), int(keys)) for _, at, keys in events if keys]
    assert sum(keys for _, keys in begun) >= JOBS * KEYS
    for first, (since, _) in enumerate(begun):
        loaded = 0
        for at, keys in begun[first:]:
            loaded += keys
            most = METERED_RATE * (at - since + 0.25) + METERED_RATE * 0.25
            assert loaded <= most, f"{loaded} keys within {at - since:.2f} s"
    at_once: set[str] = set()
    ended = {call for call, _, keys in events if not keys}
    for call, _, keys in events:
        if keys and call in ended:  # a killed worker's calls have no end
            at_once.add(call)
        else:
            at_once.discard(call)
        assert len(at_once) <= METERED_AT_ONCE
