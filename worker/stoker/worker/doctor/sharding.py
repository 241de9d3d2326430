"""Whether all processes place keys alike, and whether shards are of like size."""

from collections import Counter
from collections.abc import Iterator

from stoker.worker.doctor.check import Finding, note, ok, warning
from stoker.worker.doctor.system import System
from stoker.worker.terminal import counted

SAMPLE = 2000
ENOUGH_A_SHARD = 20
"""Sampled entries a shard, on average, below which chance alone makes shards look uneven."""
UNEVEN = 2.0
ENOUGH_A_NODE = 1000
"""Keys a node, on average, below which it does not matter who has them."""
UNEVEN_NODES = 1.5


def check(system: System) -> Iterator[Finding]:
    shards = system.num_shards
    if shards > 1:
        yield _distribution(system, shards)
    if len(system.cache_nodes) > 1:
        yield _nodes(system)
    _ = system.backend  # refused, with the remedy, if the map is not ours
    yield ok(f"the map says {counted(shards, 'shard')}, as these settings do")


def _nodes(system: System) -> Finding:
    keys = {server.address: int(server.client.dbsize()) for server in system.cache_nodes}
    (fullest, most), mean = max(keys.items(), key=lambda item: item[1]), sum(keys.values()) / len(keys)
    if sum(keys.values()) < ENOUGH_A_NODE * len(keys):
        return note(
            f"only {counted(sum(keys.values()), 'key')} on {len(keys)} nodes: too few to compare them"
        )
    told = f"the fullest of {len(keys)} nodes, {fullest}, holds {most / mean:.1f} times the average"
    if most / mean <= UNEVEN_NODES:
        return ok(told)
    return warning(
        told,
        "it has more of the shards' slots than its share, or larger shards",
        "move slots of it to other nodes; with 256 shards they fall more evenly (docs/cluster.md)",
    )


def _distribution(system: System, shards: int) -> Finding:
    counts = Counter(shard for _, sampled in system.sample(SAMPLE) for shard in sampled.values())
    looked_at = counts.total()
    if looked_at < ENOUGH_A_SHARD * shards:
        return note(f"only {counted(looked_at, 'entry')} in {shards} shards: too few to compare them")
    (largest, most), mean = counts.most_common(1)[0], looked_at / shards
    told = f"the largest of {shards} shards, {largest}, holds {most / mean:.1f} times the average"
    if most / mean <= UNEVEN:
        return ok(told)
    return warning(
        told,
        "`shard_key_func` sends many keys to few shards, or one tenant or prefix holds most keys",
        "hash the whole key: leave shard_key_func out of CacheShardingConfig, or use zlib.crc32(key.encode())",
    )
