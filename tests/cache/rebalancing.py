"""A cluster that slots are moved on, and whether its control records agree with it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis

from stoker.cache import Cache, CacheConfig
from stoker.cache.bans import Control
from stoker.worker.embedded_cluster import EmbeddedCluster, add_primary, start_cluster
from stoker.worker.processes import Processes


@contextmanager
def four_nodes(*, replicas: bool = False) -> Iterator[tuple[EmbeddedCluster, Processes]]:
    """Three primaries with their slots, and a fourth without, which a test may harm."""
    with Processes() as processes:
        cluster = start_cluster(processes, replicas=replicas, node_timeout_s=1.0)
        yield add_primary(processes, cluster, node_timeout_s=1.0), processes


def config_of(cluster: EmbeddedCluster, **more: Any) -> CacheConfig:
    return CacheConfig(backend="redis", redis_url=cluster.url, cluster=True, namespace="bal", **more)


def address(cluster: EmbeddedCluster, node: int) -> str:
    return f"127.0.0.1:{cluster.primaries[node].port}"


def assert_settled(cache: Cache, cluster: EmbeddedCluster) -> None:
    """Every control record accepts the server process that has it, and no other."""
    shards = cache._core.backend.shards  # type: ignore[attr-defined]
    with redis.RedisCluster.from_url(cluster.url) as client:
        client.nodes_manager.initialize()
        for shard in shards:
            control = Control.parse(client.get(shard.keys.ctl))
            assert control is not None
            node = client.get_node_from_key(shard.keys.ctl.decode())
            with redis.Redis(port=node.port, decode_responses=True) as server:
                run_id = server.info("server")["run_id"]
            assert [boot.decode() for boot in control.boots] == [run_id[:16]], shard.keys.ctl
