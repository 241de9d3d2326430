"""The cache's cluster: whether all slots have a node, and every node that has some is a fitting server that answers."""

from collections.abc import Iterator

from redis.crc import REDIS_CLUSTER_HASH_SLOTS

from stoker.worker.doctor import redis_server
from stoker.worker.doctor.check import CannotCheck, Finding, error, ok
from stoker.worker.doctor.server import Server
from stoker.worker.doctor.system import System
from stoker.worker.terminal import counted


def check(system: System) -> Iterator[Finding]:
    missing = REDIS_CLUSTER_HASH_SLOTS - sum(system.slots.values())
    if missing:
        yield error(
            f"{missing:,} of {REDIS_CLUSTER_HASH_SLOTS:,} slots have no node",
            "a node has failed without a replica, or slots were never given to any",
            "CLUSTER INFO and CLUSTER NODES tell which; restart the node, or promote a replica",
        )
    for node, count in sorted(system.slots.items()):
        yield ok(f"{node} has {counted(count, 'slot')}")
        try:
            server = Server("STOKER_CACHE_URL", system.url_of(node))
        except CannotCheck as silent:
            yield silent.finding
            continue
        yield from redis_server.check_server(server, system.settings)
        server.close()
