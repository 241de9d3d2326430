"""What this process counted. The figures of all processes are made of these by `traffic` and the monitor."""

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Counts since the cache was made. Threads add to them without a lock: a lost count harms nobody."""

    hits: int = 0
    misses: int = 0
    stale_hits: int = 0
    loads: int = 0
    refreshes: int = 0
    lost_refreshes: int = 0
    load_errors: int = 0
    fills: int = 0
    refused_fills: int = 0
    over_quota: int = 0
    sets: int = 0
    deletes: int = 0
    invalidations: int = 0
    coalesced: int = 0
    undecodable: int = 0
    unavailable: int = 0
    evictions: int = 0
    near_hits: int = 0
    near_misses: int = 0
    near_invalidations: int = 0
    near_flushes: int = 0


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Counts of this process since the cache was made.

    Attributes:
        backend: `"memory"` or `"redis"`.
        hits, misses: Reads answered from the cache, and not; each key of `get_many` is a read.
        stale_hits: Hits past their soft expiry.
        loads: Loader calls that returned; `load_errors` those that raised.
        refreshes: Values that this process began to load anew, or asked a worker to; `lost_refreshes` those that no
            worker had loaded within a lease, so that they were asked for again.
        fills: Loaded values that were stored; `refused_fills` those that were not, because the key was invalidated or
            set under the load, the lease had ended, there was no memory, or they cannot be encoded.
        over_quota: Values, loaded or set, that were not stored because their tenant is above its hard quota.
        sets, deletes, invalidations: Acknowledged ones.
        coalesced: Tenants whose many bans became one of all they had; on several shards, counted for each.
        undecodable: Entries that could not be read and counted as misses.
        unavailable: Operations that found no server.
        evictions: Entries dropped to make room.
        near_hits: Hits answered by the near cache, which `hits` counts too; `near_misses` reads that it could not.
        near_invalidations: Keys that the server said had changed; `near_flushes` how often all copies were dropped,
            on a cluster those of a node or a shard.
        near_entries, near_bytes: What the near cache holds now; the bytes are estimated.
        entries: Live entries on the memory backend; None on Redis.
        hit_rate: Hits by reads, 0 to 1; 0 before the first read.
    """

    backend: str
    hits: int
    misses: int
    stale_hits: int
    loads: int
    refreshes: int
    lost_refreshes: int
    load_errors: int
    fills: int
    refused_fills: int
    over_quota: int
    sets: int
    deletes: int
    invalidations: int
    coalesced: int
    undecodable: int
    unavailable: int
    evictions: int
    near_hits: int
    near_misses: int
    near_invalidations: int
    near_flushes: int
    near_entries: int
    near_bytes: int
    entries: int | None
    hit_rate: float
