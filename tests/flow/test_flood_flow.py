"""A flood against a fleet that evicts: memory stays in its bounds, and nobody is told anything that is not true."""

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import redis

from stoker.cache import Cache, CacheConfig, CacheMonitor
from stoker.cache.quotas import Quota
from stoker.config import open_cache
from stoker.tasks import JobHandle, runtime, send
from stoker.worker.embedded import Server, start_server
from stoker.worker.processes import Processes
from tests.flow.conftest import Deployment
from tests.waiting import wait_until
from tests.worker.alive import descendants

LIMIT = 48 * 2**20
VALUE = b"x" * 1000
PER_SECOND = 2000
"""Values of the flood: 2.4 MB a second with their overhead, so that it fills the server in twenty."""
ENVIRONMENT = {
    "STOKER_BEAT__WATCH_EVERY": "1",
    "STOKER_BEAT__EVICT_EVERY": "5",
    "STOKER_JOB__BATCH": "500",
    "STOKER_JOB__LOCK_TTL": "2",
}


@pytest.fixture
def server(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A small server of the test's own, which refuses to store once it is full."""
    with Processes() as processes:
        started = start_server(processes, "cache", cache_bytes=LIMIT)
        for name, value in {**ENVIRONMENT, "STOKER_CACHE_URL": started.url}.items():
            monkeypatch.setenv(name, value)
            environment[name] = value
        with redis.Redis.from_url(started.url) as client:
            client.config_set("maxmemory-policy", "noeviction")
        yield started


@dataclass
class Flood:
    """What was seen while it went on.

    Attributes:
        most: The highest share of the limit that was used.
        unstored: Values for which there was no room.
        stale: Reads of a value older than an invalidation that had been acknowledged before.
        late: Seconds by which the flood fell behind its rate.
    """

    most: float = 0.0
    unstored: int = 0
    stale: int = 0
    reads: int = 0
    late: float = 0.0
    over: threading.Event = field(default_factory=threading.Event)


@contextmanager
def watched(url: str, flood: Flood) -> Iterator[None]:
    """Measure memory twenty times a second, and look for stale reads, as long as the block runs."""
    threads = [
        threading.Thread(target=partial(_measure, url, flood)),
        threading.Thread(target=partial(_check, url, flood)),
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        flood.over.set()
        for thread in threads:
            thread.join()


def _measure(url: str, flood: Flood) -> None:
    with redis.Redis.from_url(url) as client:
        while not flood.over.wait(0.05):
            facts: Any = client.info("memory")
            used = facts["used_memory"] - facts["mem_not_counted_for_evict"]
            flood.most = max(flood.most, used / facts["maxmemory"])


def _check(url: str, flood: Flood) -> None:
    """An origin whose versions rise; each is invalidated before anybody may count on the next."""
    chance, origin, acknowledged = (
        random.Random(7),
        dict.fromkeys(range(200), 0),
        dict.fromkeys(range(200), 0),
    )
    with (
        Cache(CacheConfig(backend="redis", redis_url=url, namespace="checked", timeout=10)) as writer,
        Cache(CacheConfig(backend="redis", redis_url=url, namespace="checked", timeout=10)) as reader,
    ):
        while not flood.over.wait(0.002):
            number = chance.randrange(200)
            if chance.random() < 0.3:
                origin[number] += 1
                (writer.delete, writer.invalidate_pattern)[chance.random() < 0.3](f"row:{number}")
                acknowledged[number] = origin[number]
            least = acknowledged[number]
            flood.reads += 1
            flood.stale += reader.get_or_load(f"row:{number}", partial(origin.get, number)) < least


def pour(cache: Cache, flood: Flood, entries: int, tenant: str = "flood") -> None:
    """Store so many values at the flood's rate, whatever becomes of earlier ones."""
    began, chunk = time.monotonic(), 100
    for first in range(0, entries, chunk):
        due = began + first / PER_SECOND
        time.sleep(max(0.0, due - time.monotonic()))
        flood.late = max(flood.late, time.monotonic() - due)
        if not cache.set_many(
            {f"k:{number}": VALUE for number in range(first, first + chunk)}, tenant, ttl=600
        ):
            flood.unstored += 1


@pytest.mark.slow
@pytest.mark.soak
def test_a_flood_that_would_fill_the_server_twice_stays_below_the_high_mark(
    server: Server, deployment: Deployment
) -> None:
    flood = Flood()
    deployment.worker("a", 2)
    deployment.start("beat", "beat", ready="beat: Starting")
    with open_cache(deployment.settings) as cache, watched(server.url, flood):
        pour(cache, flood, 2 * LIMIT // 1200)
    job = deployment.newest("evict")
    assert job is not None
    assert job.report["least_worth"] > 0
    assert flood.most < 0.95, flood
    assert flood.most > 0.8, "it was no flood"
    assert (flood.unstored, flood.stale) == (0, 0), flood
    assert flood.reads > 1000
    assert flood.late < 2, "the machine could not keep the rate"
    with redis.Redis.from_url(server.url) as client:
        assert client.info("stats")["evicted_keys"] == 0


@pytest.mark.slow
def test_a_tenant_that_floods_comes_down_to_his_quota_and_others_lose_nothing(
    server: Server, deployment: Deployment
) -> None:
    """Though a worker is killed on the way."""
    flood, most, kept = Flood(), 8_000_000, 3000
    runtime.current().pressure.set_quota("noisy", Quota(hard=most))
    doomed = deployment.worker("a", 2)
    deployment.start("beat", "beat", ready="beat: Starting")
    with open_cache(deployment.settings) as cache, watched(server.url, flood):
        cache.set_many({f"k:{number}": VALUE for number in range(kept)}, "quiet", ttl=600)
        pour(cache, flood, 10_000, "noisy")  # 12 MB
        deployment.kill(doomed)
        deployment.worker("b", 2)
        pour(cache, flood, 16_000, "noisy")
        monitor = CacheMonitor(cache)

        def is_within() -> bool:
            part = monitor.get_makeup(4000).tenants.get("noisy")
            return part is not None and part.bytes < 1.1 * most

        wait_until(is_within, 60)
        assert len(cache.get_many([f"k:{number}" for number in range(kept)], "quiet")) == kept
        assert cache.stats().over_quota > 0
    evictions = [job.report for job in deployment.jobs.recent(100) if job.kind == "evict" and job.final]
    assert sum(report["over_quota"] for report in evictions) > 0
    assert flood.stale == 0
    assert flood.most < 0.9


def has_begun(job: JobHandle) -> bool:
    return job.status().state != "queued"


@pytest.mark.slow
def test_workers_killed_while_they_evict_cost_time_alone(server: Server, deployment: Deployment) -> None:
    chance, flood, kept = random.Random(11), Flood(), 300
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory-policy", "volatile-lfu")  # it has to help itself while nobody is there
    loader_ = {"STOKER_JOB__BATCH": "20"}
    with open_cache(deployment.settings) as cache, watched(server.url, flood):
        cache.set_many({f"kept:{number}": number for number in range(kept)}, ttl=600)
        pour(cache, flood, 20_000)
        workers = [deployment.worker("a", 1, **loader_)]
        for turn in range(6):
            job = send.evict(target_bytes=5_000_000 + 1_000_000 * (6 - turn))
            wait_until(partial(has_begun, job), 20)
            time.sleep(chance.uniform(0, 0.3))
            deployment.kill(workers.pop())
            workers.append(deployment.worker(f"w{turn}", 1, **loader_))
        final = send.evict(target_bytes=8_000_000)
        status = wait_until(lambda: final.status() if final.status().final else None, 60)
        assert status.state == "succeeded", status
        assert flood.stale == 0
        assert cache.set("after", 1)
        assert cache.get("after") == 1
    assert deployment.jobs.dead(9) == []


@pytest.mark.slow
def test_a_server_that_restarts_while_it_is_emptied_costs_time_alone(
    environment: dict[str, str], deployment: Deployment
) -> None:
    """Its process is stopped for longer than anybody waits: the job tries again, and ends."""
    with Processes() as processes:
        own = start_server(processes, "cache", cache_bytes=LIMIT)
        assert environment
        worker = deployment.worker(
            "a", 1, STOKER_CACHE_URL=own.url, STOKER_JOB__BATCH="20", STOKER_CACHE_TIMEOUT="0.3"
        )
        assert descendants(worker.pid)
        with Cache(
            CacheConfig(backend="redis", redis_url=own.url, namespace=deployment.settings.namespace)
        ) as cache:
            cache.set_many({f"k:{number}": VALUE for number in range(10_000)})
            job = send.evict(target_bytes=4_000_000)
            wait_until(lambda: job.status().done > 0, 20)
            os.kill(own.child.pid, signal.SIGSTOP)
            wait_until(lambda: "CacheUnavailable" in job.status().error, 20)
            os.kill(own.child.pid, signal.SIGCONT)
            status = wait_until(lambda: job.status() if job.status().final else None, 60)
            assert status.state == "succeeded", status
            assert status.report["after_bytes"] <= 4_000_000
