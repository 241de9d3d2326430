"""Looking at a cluster behind a cache's back, moving its slots, and stopping its nodes."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import redis

from stoker.cache import Cache
from stoker.cache.backends.cluster import ClusterBackend
from stoker.worker.embedded_cluster import EmbeddedCluster
from tests.plain_cluster import plain_cluster
from tests.waiting import wait_until

VALUES = {f"k{n}": n for n in range(300)}


def slots_of(cache: Cache) -> list[int]:
    """The slot of each shard."""
    backend = cache._core.backend
    assert isinstance(backend, ClusterBackend)
    return backend.slots


def owner(cluster: EmbeddedCluster, slot: int) -> int:
    """Which primary has the slot."""
    with plain_cluster(cluster.url) as client:
        port = client.nodes_manager.slots_cache[slot][0].port
    return [server.port for server in cluster.primaries].index(port)


def admin(cluster: EmbeddedCluster, node: int) -> Any:
    """A plain client of a primary."""
    return redis.Redis(port=cluster.primaries[node].port, decode_responses=True)


def shard_of(cache: Cache, key: str, tenant: str = "") -> int:
    """The number of the shard that the key lives in."""
    backend = cache._core.backend
    assert isinstance(backend, ClusterBackend)
    return backend.placement.shard_of(tenant, key)


@contextmanager
def stopped(cluster: EmbeddedCluster, node: int) -> Iterator[str]:
    """Its name, while it answers nobody."""
    server = cluster.primaries[node]
    os.kill(server.child.pid, signal.SIGSTOP)
    try:
        yield f"127.0.0.1:{server.port}"
    finally:
        os.kill(server.child.pid, signal.SIGCONT)


def migrate(cluster: EmbeddedCluster, slot: int, to: int) -> None:
    """Move a slot at once, as Valkey 9 does."""
    with admin(cluster, owner(cluster, slot)) as source, admin(cluster, to) as target:
        name = target.execute_command("CLUSTER MYID")
        source.execute_command("CLUSTER MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", name)
        wait_until(lambda: owner(cluster, slot) == to)


def move_by_keys(cluster: EmbeddedCluster, slot: int, to: int) -> None:
    """Move a slot key by key, as redis-cli does."""
    with admin(cluster, owner(cluster, slot)) as source, admin(cluster, to) as target:
        ids = source.execute_command("CLUSTER MYID"), target.execute_command("CLUSTER MYID")
        target.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[0])
        source.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[1])
        port = cluster.primaries[to].port
        while keys := source.execute_command("CLUSTER GETKEYSINSLOT", slot, 10):
            source.execute_command("MIGRATE", "127.0.0.1", port, "", 0, 5000, "KEYS", *keys)
        for one in (target, source):
            one.execute_command("CLUSTER SETSLOT", slot, "NODE", ids[1])
    wait_until(lambda: owner(cluster, slot) == to)


Move = Callable[[EmbeddedCluster, int, int], None]
