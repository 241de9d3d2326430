"""The cache's cluster: whether all slots have a node, and every node that has some is a fitting server that answers."""

from collections import Counter
from collections.abc import Iterator

from redis.crc import REDIS_CLUSTER_HASH_SLOTS

from stoker.worker.doctor import redis_server
from stoker.worker.doctor.check import CannotCheck, Finding, error, ok
from stoker.worker.doctor.server import Server
from stoker.worker.doctor.system import System

UNLIKE_ON_A_CLUSTER = ("misses", "memory", "sharding")
"""Checks that look at one server, and are left out."""


def check(system: System) -> Iterator[Finding]:
    with system.cluster() as client:
        slots = {slot: nodes[0].name for slot, nodes in client.nodes_manager.slots_cache.items()}
    missing = REDIS_CLUSTER_HASH_SLOTS - len(slots)
    if missing:
        yield error(
            f"{missing:,} of {REDIS_CLUSTER_HASH_SLOTS:,} slots have no node",
            "a node has failed without a replica, or slots were never given to any",
            "CLUSTER INFO and CLUSTER NODES tell which; restart the node, or promote a replica",
        )
    for node, count in sorted(Counter(slots.values()).items()):
        yield ok(f"{node} has {count:,} slots")
        try:
            server = Server("STOKER_CACHE_URL", system.url_of(node))
        except CannotCheck as silent:
            yield silent.finding
            continue
        yield from redis_server.check_server(server, system.settings)
        server.close()
