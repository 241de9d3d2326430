"""Tenants' quotas on a cluster of which a node does not answer, and evictions that are killed on the way."""

import json
from collections.abc import Iterator

import pytest
from redis.crc import key_slot

from stoker.cache import Cache, CacheConfig, CacheMonitor
from stoker.cache.keys import quotas as quotas_key
from stoker.cache.quotas import Quota
from stoker.worker.embedded_cluster import EmbeddedCluster, start_cluster
from stoker.worker.processes import Processes
from tests.cache.awaited import Awaited
from tests.cache.cluster_nodes import admin, owner, stopped
from tests.cache.cluster_tenants import NOISY, QUIET, SAMPLE, allow, bytes_of, entries_of, left, put

pytestmark = pytest.mark.slow
LIMIT = 32 * 2**20
"""Of each node."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[EmbeddedCluster]:
    with Processes() as processes:
        yield start_cluster(
            processes, cache_bytes=3 * LIMIT, node_timeout_s=60.0
        )  # nobody replaces who is stopped


@pytest.fixture
def config(cluster: EmbeddedCluster) -> CacheConfig:
    for node in range(3):
        with admin(cluster, node) as client:
            client.flushall()
    return CacheConfig(
        backend="redis",
        redis_url=cluster.url,
        cluster=True,
        compress_above=None,
        breaker_failures=1,
    )


@pytest.fixture(params=[Cache, Awaited])
def cache(config: CacheConfig, request: pytest.FixtureRequest) -> Iterator[Cache]:
    """To be called, and to be awaited."""
    with request.param(config) as opened:
        yield opened
    if isinstance(opened, Awaited):
        opened.end()


def test_killed_after_any_batch_it_takes_no_more_than_it_would_have(cache: Cache) -> None:
    put(cache, "noisy", NOISY)
    put(cache, "quiet", QUIET)
    size = bytes_of(cache, "noisy")
    allow(cache, noisy=Quota(hard=size // 2))
    step = next(cache.evict_steps(batch=200))
    bounds = step.cursor["quotas"]
    while not step.last:
        cursor = json.loads(json.dumps(step.cursor))  # as a job keeps it; its process is killed here
        step = next(cache.evict_steps(batch=200, cursor=cursor))
    assert step.cursor["quotas"] == bounds  # tenants were measured once
    assert step.report.over_quota == step.report.dropped == NOISY - left(cache, "noisy", NOISY)
    assert bytes_of(cache, "noisy") == pytest.approx(0.405 * size, rel=0.25)
    [over_] = cache.evict_steps(batch=200, cursor=step.cursor)  # killed between its end and its report
    assert (over_.last, over_.report) == (True, step.report)


def test_a_node_without_an_answer_is_named_and_the_others_are_brought_to_their_quotas(
    cache: Cache, cluster: EmbeddedCluster
) -> None:
    put(cache, "noisy", NOISY)
    put(cache, "quiet", QUIET)
    before = entries_of(cache, cluster, "noisy")
    monitor = CacheMonitor(cache)
    size = bytes_of(cache, "noisy")
    allow(cache, noisy=Quota(hard=size // 2), quiet=Quota(hard=10**9))
    asked = owner(cluster, key_slot(quotas_key(cache.config.namespace)))
    down = (asked + 1) % 3
    with stopped(cluster, down) as name:
        makeup, node = monitor.get_makeup(SAMPLE), monitor.get_node()
        report = cache.evict()
    assert makeup.missing == node.missing == (name,)
    assert node.limit_bytes == makeup.limit_bytes == 2 * LIMIT
    assert makeup.tenants["noisy"].bytes == pytest.approx(size * (1 - before[down] / NOISY), rel=0.2)
    assert report.reason.startswith(f"quotas are of all nodes but {name}; no answer from {name}")
    after = entries_of(cache, cluster, "noisy")
    assert after[down] == before[down]
    assert sum(after) - after[down] == pytest.approx(0.405 * NOISY, rel=0.25)


def test_where_nobody_can_say_what_the_quotas_are_it_evicts_without(
    cache: Cache, cluster: EmbeddedCluster
) -> None:
    put(cache, "noisy", NOISY)
    allow(cache, noisy=Quota(hard=1))
    asked = owner(cluster, key_slot(quotas_key(cache.config.namespace)))
    with stopped(cluster, asked) as name:
        report = cache.evict(target_bytes=1)
    assert report.over_quota == 0
    assert report.least_worth > 0
    assert report.reason.startswith(f"tenants' quotas are not known; no answer from {name}")
