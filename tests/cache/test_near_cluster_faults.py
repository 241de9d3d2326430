"""Copies of what is on a cluster, under load, while its primaries die, stop and go on, and its slots move.

Writers wait with a barrier, so from then on nobody may be served what was before.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random

import pytest
import redis

from stoker.cache import Cache
from stoker.worker.embedded_cluster import EmbeddedCluster, start_cluster
from stoker.worker.processes import Processes
from tests.cache.cluster_load import Load
from tests.cache.cluster_nodes import Move, admin, migrate, move_by_keys, owner, slots_of
from tests.cache.rebalancing import address, config_of
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
SEED = int(os.environ.get("STOKER_TEST_SEED", "1"))


@pytest.fixture
def own_cluster() -> Iterator[tuple[EmbeddedCluster, Processes]]:
    """A cluster with replicas that a test may harm."""
    with Processes() as processes:
        yield start_cluster(processes, replicas=True, node_timeout_s=1.0), processes


@contextmanager
def readers_with_copies(cluster: EmbeddedCluster) -> Iterator[Load]:
    """Three of them, and a writer; nothing stale was served when the block is left, and many copies were."""
    load, caches = Load(SEED, barrier=True), []

    def make() -> Cache:
        caches.append(Cache(config_of(cluster, near_size=300, timeout=0.5)))
        return caches[-1]

    with load.on(make):
        go_on(load)
        yield load
        go_on(load)
    served = sum(cache.stats().near_hits for cache in caches)
    sys.stdout.write(f"seed {SEED}: {len(load.stale)} stale; {served} served of copies; {dict(load.count)}\n")
    assert load.stale == []
    assert served > 1000


def go_on(load: Load, acks: int = 20) -> None:
    """Until so many more changes were acknowledged."""
    enough = load.count["acks"] + acks
    wait_until(lambda: load.count["acks"] >= enough, 60)


def killed(cluster: EmbeddedCluster, processes: Processes, node: int) -> None:
    processes.stop([cluster.primaries[node].child], 0)


def stopped(cluster: EmbeddedCluster, _: Processes, node: int) -> None:
    """For longer than its replica needs to take over; then it goes on, with all connections open."""
    pid = cluster.primaries[node].child.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        with redis.Redis(port=cluster.replicas[node].port) as replica:
            wait_until(lambda: replica.role()[0] == b"master", 30)
        time.sleep(1.0)
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("happens", [killed, stopped])
def test_a_replica_takes_over(
    own_cluster: tuple[EmbeddedCluster, Processes], happens: Callable[[EmbeddedCluster, Processes, int], None]
) -> None:
    cluster, processes = own_cluster
    with readers_with_copies(cluster) as load:
        with admin(cluster, 1) as primary:  # its replica lags from now on
            primary.execute_command("ACL SETUSER default -sync -psync -replconf")
            primary.client_kill_filter(_type="replica")
        go_on(load)
        happens(cluster, processes, 1)
        with Cache(config_of(cluster)) as quiet:
            wait_until(quiet.ping, 30)
        go_on(load)


@pytest.mark.parametrize("move", [migrate, move_by_keys])
def test_slots_move(own_cluster: tuple[EmbeddedCluster, Processes], move: Move) -> None:
    cluster, _ = own_cluster
    with readers_with_copies(cluster), Cache(config_of(cluster)) as quiet:
        for slot in slots_of(quiet)[:12]:
            move(cluster, slot, (owner(cluster, slot) + 1) % 3)


def test_slots_are_handed_over_there_and_back(own_cluster: tuple[EmbeddedCluster, Processes]) -> None:
    cluster, _ = own_cluster
    chance = Random(SEED)
    with readers_with_copies(cluster), Cache(config_of(cluster)) as mover:
        moved = 0
        for _ in range(4):
            weights = {address(cluster, node): chance.uniform(0.5, 2) for node in range(3)}
            moved += mover.rebalance(weights=weights).moved
        assert moved > 5
