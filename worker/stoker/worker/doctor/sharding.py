"""Whether all processes place keys alike, and whether shards are of like size."""

from collections import Counter
from collections.abc import Iterator

from stoker.worker.doctor.check import Finding, note, ok, warning
from stoker.worker.doctor.system import System

SAMPLE = 2000
ENOUGH_A_SHARD = 20
"""Sampled entries a shard, on average, below which chance alone makes shards look uneven."""
UNEVEN = 2.0


def check(system: System) -> Iterator[Finding]:
    shards = system.num_shards
    if shards > 1:
        yield _distribution(system, shards)
    _ = system.backend  # refused, with the remedy, if the map is not ours
    yield ok(f"the map says {shards} {'shard' if shards == 1 else 'shards'}, as these settings do")


def _distribution(system: System, shards: int) -> Finding:
    counts = Counter(system.sample(SAMPLE).values())
    looked_at = counts.total()
    if looked_at < ENOUGH_A_SHARD * shards:
        return note(f"{looked_at} entries were found in {shards} shards: too few to compare them")
    (largest, most), mean = counts.most_common(1)[0], looked_at / shards
    told = f"the largest of {shards} shards, {largest}, holds {most / mean:.1f} times the average"
    if most / mean <= UNEVEN:
        return ok(told)
    return warning(
        told,
        "`shard_key_func` sends many keys to few shards, or one tenant or prefix holds most keys",
        "hash the whole key: leave shard_key_func out of CacheShardingConfig, or use zlib.crc32(key.encode())",
    )
