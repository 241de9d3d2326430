"""What happens to a cluster under load: primaries die, replicas lag, slots move. Nothing stale is served."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import redis
from redis.crc import key_slot

from stoker.cache import Cache, CacheConfig, CacheMonitor, CacheUnavailable, InvalidationNotAcknowledged
from stoker.worker.embedded_cluster import EmbeddedCluster, start_cluster
from stoker.worker.processes import Processes
from tests.cache.awaited import Awaited
from tests.cache.cluster_load import KEYS, Load
from tests.cache.cluster_nodes import VALUES, Move, admin, migrate, move_by_keys, owner, shard_of, slots_of
from tests.waiting import wait_until

pytestmark = pytest.mark.slow
SEED = int(os.environ.get("STOKER_TEST_SEED", "1"))


@pytest.fixture
def own_cluster() -> Iterator[tuple[EmbeddedCluster, Processes]]:
    """A cluster with replicas that a test may harm."""
    with Processes() as processes:
        yield start_cluster(processes, replicas=True, node_timeout_s=1.0), processes


def settled(cache: Cache) -> float:
    """Seconds until every node answers."""
    began = time.monotonic()
    wait_until(cache.ping, 30)
    return time.monotonic() - began


def fall_behind(cluster: EmbeddedCluster, node: int) -> None:
    """What happens on a primary from now on its replica does not learn."""
    with admin(cluster, node) as primary:
        primary.execute_command("ACL SETUSER default -sync -psync -replconf")
        primary.client_kill_filter(_type="replica")


def promoted(cluster: EmbeddedCluster, node: int) -> bool:
    """Whether the replica of this primary has taken its place."""
    with redis.Redis(port=cluster.replicas[node].port) as client:
        return bool(client.info("replication")["role"] == "master")


def lose_a_primary(
    own_cluster: tuple[EmbeddedCluster, Processes], config: CacheConfig, node: int, quiet: Cache
) -> Load:
    """Kill a primary under load, whose replica lags; returns what the load saw when all is well again."""
    cluster, processes = own_cluster
    load = Load(SEED)
    with load.on(lambda: Cache(config)):
        wait_until(lambda: load.count["acks"] > 100)
        fall_behind(cluster, node)
        wait_until(lambda: load.count["acks"] > 300)
        processes.stop([cluster.primaries[node].child], 0)
        began = time.monotonic()
        wait_until(lambda: promoted(cluster, node), 30)
        own, more = time.monotonic() - began, settled(quiet)
        acks = load.count["acks"]
        wait_until(lambda: load.count["acks"] > acks + 200)
    sys.stdout.write(
        f"the cluster took {own:.1f} s, we {more:.1f} s more; {len(load.stale)} stale; {dict(load.count)}\n"
    )
    assert more < 3
    return load


@pytest.mark.parametrize("victim", ["the map's", "another"])
def test_a_primary_is_killed_under_load_and_its_lagging_replica_takes_over(
    own_cluster: tuple[EmbeddedCluster, Processes], victim: str
) -> None:
    cluster, _ = own_cluster
    config = CacheConfig(backend="redis", redis_url=cluster.url, cluster=True, namespace="over", timeout=0.5)
    with Cache(config) as quiet:
        kept = {f"kept:{n}": n for n in range(300)}
        assert quiet.set_many(kept, "quiet")
        with_map = owner(cluster, key_slot(b"{over}:map"))
        node = with_map if victim == "the map's" else (with_map + 1) % 3
        its = {n for n, slot in enumerate(slots_of(quiet)) if owner(cluster, slot) == node}
        load = lose_a_primary(own_cluster, config, node, quiet)
    left = cluster.primaries[(node + 1) % 3]
    with Cache(replace(config, redis_url=left.url, timeout=10.0)) as patient:
        found = patient.get_many(kept, "quiet")
        assert load.stale == []
        assert {shard_of(patient, key, "quiet") for key in kept.keys() - found.keys()} == its
        assert {shard_of(patient, key, "quiet") for key in found}.isdisjoint(its)


@pytest.mark.parametrize(("fence", "served"), [("run_id", {}), ("off", {"k": "old"})])
def test_what_a_lagging_replica_has_is_not_served_for_the_boot_fence(
    own_cluster: tuple[EmbeddedCluster, Processes], fence: str, served: dict[str, str]
) -> None:
    cluster, processes = own_cluster
    config = {"backend": "redis", "redis_url": cluster.url, "cluster": True, "boot_fence": fence}
    with Cache(CacheConfig(**config)) as cache:  # type: ignore[arg-type]
        cache.set("k", "old")
        node = owner(cluster, slots_of(cache)[shard_of(cache, "k")])
        with admin(cluster, node) as primary:
            primary.execute_command("WAIT", 1, 5000)
        fall_behind(cluster, node)
        assert cache.delete("k") is True
    processes.stop([cluster.primaries[node].child], 0)
    left = cluster.primaries[(node + 1) % 3]
    with Cache(CacheConfig(**{**config, "redis_url": left.url})) as fresh:  # type: ignore[arg-type]
        settled(fresh)
        assert fresh.get_many(["k"]) == served


@pytest.mark.parametrize("move", [migrate, move_by_keys])
def test_slots_are_moved_under_load_and_nothing_stale_is_served(
    own_cluster: tuple[EmbeddedCluster, Processes], move: Move
) -> None:
    cluster, _ = own_cluster
    config = CacheConfig(backend="redis", redis_url=cluster.url, cluster=True, namespace="move")
    with Cache(config) as quiet, Load(SEED).on(lambda: Cache(config)) as load:
        wait_until(lambda: load.count["acks"] > 100)
        for slot in [*slots_of(quiet)[:12], key_slot(b"{move}:map")]:
            move(cluster, slot, (owner(cluster, slot) + 1) % 3)
        acks = load.count["acks"]
        wait_until(lambda: load.count["acks"] > acks + 100)
        assert quiet.set_many(dict.fromkeys(KEYS, 10**9), "quiet")
        assert len(quiet.get_many(KEYS, "quiet")) == len(KEYS)
        report = quiet.sweep()
    sys.stdout.write(f"{dict(load.count)} {report}\n")
    assert load.stale == []


def test_a_replica_is_never_read(own_cluster: tuple[EmbeddedCluster, Processes]) -> None:
    cluster, _ = own_cluster
    config = CacheConfig(backend="redis", redis_url=cluster.url, cluster=True)
    with Cache(config) as cache:
        before = [_calls(replica.port) for replica in cluster.replicas]
        for n in range(20):
            cache.set_many(VALUES)
            cache.get_many(VALUES)
            cache.get(f"k{n}")
        assert [_calls(replica.port) for replica in cluster.replicas] == before


def _calls(port: int) -> int:
    """How many reads of entries a server has had."""
    with redis.Redis(port=port) as client:
        return sum(
            client.info("commandstats").get(f"cmdstat_{name}", {}).get("calls", 0)
            for name in ("mget", "scan")
        )


def test_a_primary_that_is_killed_while_entries_are_evicted_costs_time_alone(
    own_cluster: tuple[EmbeddedCluster, Processes],
) -> None:
    """As a job does, the eviction begins anew from its cursor until it comes to its end."""
    cluster, processes = own_cluster
    config = CacheConfig(backend="redis", redis_url=cluster.url, cluster=True, namespace="less", timeout=0.5)
    with Cache(config) as cache:
        assert cache.set_many({f"k:{n}": "x" * 500 for n in range(6000)})
        target = CacheMonitor(cache).get_node().used_bytes - 1_500_000
        steps = cache.evict_steps(target_bytes=target, batch=100)
        step = next(steps)
        doomed = next(one for one in cluster.primaries if step.cursor["node"].endswith(f":{one.port}"))
        processes.stop([doomed.child], 0)
        with pytest.raises(CacheUnavailable):
            list(steps)
        cursor, until = json.loads(json.dumps(step.cursor)), time.monotonic() + 60
        while not step.last and time.monotonic() < until:
            with suppress(CacheUnavailable):
                for step in cache.evict_steps(target_bytes=target, batch=100, cursor=cursor):
                    cursor = json.loads(json.dumps(step.cursor))
        settled(cache)
        left = len(cache.get_many([f"k:{n}" for n in range(6000)]))
        sys.stdout.write(f"{step.report}; {left} are left\n")
        assert step.last
        assert step.report.dropped > 0
        assert 0 < left < 6000
        assert cache.set("after", 1)
        assert cache.get("after") == 1


@pytest.mark.parametrize("how", [Cache, Awaited])
def test_a_cluster_that_is_down_is_told_and_goes_on_when_it_is_up(how: Any) -> None:
    with Processes() as processes:
        # Given a cluster that refuses everything while any of its slots is gone
        cluster = start_cluster(processes, node_timeout_s=1.0)
        config = CacheConfig(backend="redis", redis_url=cluster.url, cluster=True, breaker_failures=1000)
        with how(config) as cache:
            assert cache.set_many(VALUES)
            key = next(key for key in VALUES if owner(cluster, slots_of(cache)[shard_of(cache, key)]) == 0)
            whole(cluster, "yes")
            processes.stop([cluster.primaries[2].child], 0)
            wait_until(lambda: state_of(cluster) == "fail")
            # Then values are loaded, and an invalidation that it did not take is an error that says so
            assert cache.get_or_load(key, lambda: "loaded") == "loaded"
            with pytest.raises(InvalidationNotAcknowledged, match=r"CLUSTERDOWN|cluster is down"):
                cache.delete(key)
            # When it is content with the slots that there are, these are as they were
            whole(cluster, "no")
            wait_until(lambda: state_of(cluster) == "ok")
            assert cache.get(key) == VALUES[key]
            assert cache.delete(key) is True
        if isinstance(cache, Awaited):
            cache.end()


def whole(cluster: EmbeddedCluster, required: str) -> None:
    """Whether the first two nodes want all slots to be there."""
    for node in (0, 1):
        with admin(cluster, node) as one:
            one.config_set("cluster-require-full-coverage", required)


def state_of(cluster: EmbeddedCluster) -> str:
    """What the first two nodes say of the cluster, if they agree."""
    said = set()
    for node in (0, 1):
        with admin(cluster, node) as one:
            said.add(one.cluster("info")["cluster_state"])
    return said.pop() if len(said) == 1 else ""
