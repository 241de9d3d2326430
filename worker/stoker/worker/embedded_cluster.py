"""A Valkey cluster of our own on loopback, for `stoker up --cluster` and tests, made of the servers of `embedded`.

Formed without redis-cli: the nodes are given their slots, meet, and replicas are told whom to follow. A primary that
dies is replaced by its replica after about as long as the node timeout; without one its slots are gone, while
the others go on.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS

from stoker.worker.embedded import CACHE_BYTES, Server, free_port, start_server
from stoker.worker.processes import NotReady, Processes

LEAST_NODES = 3
"""Primaries that can agree on a fail-over when one of them is gone."""
MOST_NODES = 9
_FORMED_WITHIN_S = 20.0


@dataclass(frozen=True, slots=True)
class EmbeddedCluster:
    """A running cluster: node n of `replicas` follows node n of `primaries`."""

    primaries: list[Server]
    replicas: list[Server] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Of one node; the others are found through it."""
        return self.primaries[0].url


def start_cluster(
    processes: Processes,
    nodes: int = LEAST_NODES,
    *,
    replicas: bool = False,
    cache_bytes: int = CACHE_BYTES,
    node_timeout_s: float = 2.0,
) -> EmbeddedCluster:
    """Start a cluster and wait until every node says that it is complete.

    Args:
        nodes: Primaries; each has an equal share of the slots.
        replicas: Whether each primary has a replica.
        cache_bytes: `maxmemory` of all primaries together.
        node_timeout_s: Seconds after which a node that does not answer counts as failing.

    Raises:
        ChildEnded: A server, or another of these processes, has ended.
        NotReady: A server or the cluster was not ready in time.
        ConfigError: There is no binary for this machine.
    """
    start = partial(_start, processes, cache_bytes // nodes, node_timeout_s)
    primaries = [start(f"node-{n}") for n in range(nodes)]
    followers = [start(f"replica-{n}") for n in range(nodes)] if replicas else []
    _form(primaries, followers)
    return EmbeddedCluster(primaries, followers)


def add_primary(
    processes: Processes,
    cluster: EmbeddedCluster,
    *,
    cache_bytes: int = CACHE_BYTES,
    node_timeout_s: float = 2.0,
) -> EmbeddedCluster:
    """Start one more primary, without slots, and wait until all know it. Arguments and errors as of `start_cluster`."""
    nodes = len(cluster.primaries)
    newcomer = _start(processes, cache_bytes // nodes, node_timeout_s, f"node-{nodes}")
    known = [*cluster.primaries, *cluster.replicas]
    with ExitStack() as stack:
        clients = [stack.enter_context(_client(server)) for server in (*known, newcomer)]
        for server in known:
            _meet(clients[-1], server)
        _wait(lambda: all(_know_all(one, len(clients)) for one in clients))
        _wait(lambda: _complete(clients[-1]))  # Redis 7 refuses everything for its first two seconds
    return EmbeddedCluster([*cluster.primaries, newcomer], cluster.replicas)


def _start(processes: Processes, cache_bytes: int, node_timeout_s: float, name: str) -> Server:
    folder = processes.directory / name
    folder.mkdir()
    options = {
        "dir": str(folder),
        "cluster-enabled": "yes",
        "cluster-node-timeout": str(round(node_timeout_s * 1000)),
        "cluster-require-full-coverage": "no",
        "cluster-replica-validity-factor": "0",
        "cluster-allow-replica-migration": "no",
        "repl-diskless-sync-delay": "0",
    }
    return start_server(
        processes,
        "cache",
        cache_bytes=cache_bytes,
        name=name,
        options=lambda: options | {"cluster-port": str(free_port())},
    )


@contextmanager
def embedded_cluster(nodes: int = LEAST_NODES, *, replicas: bool = False) -> Iterator[EmbeddedCluster]:
    """One cluster for as long as the block runs. For tests and notebooks."""
    with Processes() as processes:
        yield start_cluster(processes, nodes, replicas=replicas)


def _form(primaries: list[Server], replicas: list[Server]) -> None:
    with ExitStack() as stack:
        leads = [stack.enter_context(_client(one)) for one in primaries]
        follows = [stack.enter_context(_client(one)) for one in replicas]
        clients = [*leads, *follows]
        share = REDIS_CLUSTER_HASH_SLOTS / len(leads)
        for n, lead in enumerate(leads):
            lead.execute_command("CLUSTER SET-CONFIG-EPOCH", n + 1)
            first, end = round(n * share), round((n + 1) * share)
            lead.execute_command("CLUSTER ADDSLOTSRANGE", first, end - 1)
        servers = [*primaries, *replicas]
        for n, other in enumerate(clients):
            for server in servers[:n] + servers[n + 1 :]:
                _meet(other, server)
        _wait(lambda: all(_know_all(one, len(clients)) for one in clients))
        for lead, follow in zip(leads, follows, strict=False):
            follow.execute_command("CLUSTER REPLICATE", lead.execute_command("CLUSTER MYID"))
        _wait(lambda: all(_complete(one) for one in clients))
        _wait(lambda: all(one.info("replication").get("master_link_status") == "up" for one in follows))
        _wait(lambda: all(_seen_replicas(one, len(follows)) for one in clients))


def _client(server: Server) -> Any:
    return redis.Redis(port=server.port, decode_responses=True)


def _meet(client: Any, server: Server) -> None:
    with _client(server) as it:
        bus = it.config_get("cluster-port")["cluster-port"]
    client.execute_command("CLUSTER MEET", "127.0.0.1", server.port, bus)


def _know_all(client: Any, nodes: int) -> bool:
    found = client.cluster("nodes")
    return len(found) == nodes and all("handshake" not in facts["flags"] for facts in found.values())


def _complete(client: Any) -> bool:
    facts = client.cluster("info")
    return facts["cluster_state"] == "ok" and int(facts["cluster_slots_ok"]) == REDIS_CLUSTER_HASH_SLOTS


def _seen_replicas(client: Any, replicas: int) -> bool:
    return sum("slave" in facts["flags"] for facts in client.cluster("nodes").values()) == replicas


def _wait(ready: Any) -> None:
    deadline = time.monotonic() + _FORMED_WITHIN_S
    while not ready():
        if time.monotonic() > deadline:
            raise NotReady("the cluster", _FORMED_WITHIN_S, "")
        time.sleep(0.02)
