"""What a process keeps open to know its cluster."""

import gc
import socket

from redis.cluster import RedisCluster

from stoker.cache import CacheConfig
from stoker.cache.topology import Topology
from stoker.worker.embedded_cluster import EmbeddedCluster


def open_to(cluster: EmbeddedCluster) -> set[int]:
    """File descriptors of this process's connections to the nodes."""
    ports = {server.port for server in (*cluster.primaries, *cluster.replicas)}
    sockets = [
        one for one in gc.get_objects() if issubclass(type(one), socket.socket)
    ]  # proxies may be among them
    return {one.fileno() for one in sockets if one.fileno() >= 0 and _port_at_the_other_end(one) in ports}


def _port_at_the_other_end(one: socket.socket) -> int | None:
    try:
        return int(one.getpeername()[1]) if one.family == socket.AF_INET else None
    except OSError:  # it listens, or its other end is gone
        return None


def test_what_is_closed_leaves_no_connection_to_the_garbage_collector(cache_cluster: EmbeddedCluster) -> None:
    config = CacheConfig(backend="redis", redis_url=cache_cluster.url, cluster=True)
    gc.disable()  # it would close what was forgotten
    try:
        before = open_to(cache_cluster)
        topology = Topology(config)
        topology.learn()
        assert topology._client is not None
        topology._client.ping(target_nodes=RedisCluster.ALL_NODES)
        assert len(open_to(cache_cluster) - before) >= len(cache_cluster.primaries)
        topology.close()
        assert open_to(cache_cluster) - before == set()
    finally:
        gc.enable()
