"""A cluster that slots are moved on, and whether its control records agree with it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import GeneratorType
from typing import Any

import redis

from stoker.cache import Cache, CacheConfig, CacheUnavailable
from stoker.cache.bans import Control
from stoker.cache.hand_over import HandOver, Move, Outcome
from stoker.cache.programs import Sleep
from stoker.worker.embedded_cluster import EmbeddedCluster, add_primary, start_cluster
from stoker.worker.processes import Processes
from tests.cache.cluster_nodes import slots_of
from tests.plain_cluster import plain_cluster


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


def move_of(cache: Cache, cluster: EmbeddedCluster, shard: int, source: int, target: int) -> Move:
    """Of the shard's slot, in which no other is."""
    known = cache._run(cache._core.on_cluster().census())
    to = address(cluster, target)
    name = known.id_of(to)
    assert name is not None
    return Move(slots_of(cache)[shard], (shard,), address(cluster, source), to, name)


def perform(cache: Cache, program: HandOver, look: Callable[[], object] = bool) -> Outcome:
    """Go through with a move; `look` is called whenever it says that it goes on."""
    try:
        effect = next(program)
        while True:
            answer = None
            if isinstance(effect, GeneratorType):
                try:
                    answer = cache._run(effect)
                except CacheUnavailable as error:
                    effect = program.throw(error)
                    continue
            elif isinstance(effect, Sleep):
                time.sleep(effect.seconds)
            else:
                look()
            effect = program.send(answer)
    except StopIteration as ended:
        outcome: Outcome = ended.value
        return outcome


def unsettled(cache: Cache, cluster: EmbeddedCluster) -> list[str]:
    """The control records that do not accept the server process that has them, or another too."""
    found = []
    with plain_cluster(cluster.url) as plain:
        client: Any = plain
        for shard in cache._core.on_cluster().shards:
            control = Control.parse(client.get(shard.keys.ctl))
            port = client.get_node_from_key(shard.keys.ctl.decode()).port
            with redis.Redis(port=port, decode_responses=True) as server:
                run_id: str = server.info("server")["run_id"]
            if control is None or control.boots != {run_id[:16].encode()}:
                found.append(f"{shard.keys.tag} at {run_id[:16]}: {control}")
    return found


def assert_settled(cache: Cache, cluster: EmbeddedCluster) -> None:
    """Every control record accepts the server process that has it, and no other."""
    found = unsettled(cache, cluster)
    assert found == [], "\n".join(found)
