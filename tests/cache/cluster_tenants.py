"""What tenants have on a cluster, and may have."""

from stoker.cache import Cache, CacheMonitor
from stoker.cache.quotas import Quota, Quotas
from stoker.worker.embedded_cluster import EmbeddedCluster
from tests.cache.cluster_nodes import admin

NOISY, QUIET = 1800, 360
"""Entries: few of the quiet one, since a sample knows a large share better than a small one."""
SAMPLE = 3000


def put(cache: Cache, tenant: str, count: int) -> None:
    assert cache.set_many({f"k:{n}": b"x" * 500 for n in range(count)}, tenant)


def left(cache: Cache, tenant: str, count: int) -> int:
    return len(cache.get_many([f"k:{n}" for n in range(count)], tenant))


def entries_of(cache: Cache, cluster: EmbeddedCluster, tenant: str) -> list[int]:
    """How many the tenant has on each node."""
    name = f"{{{cache.config.namespace}:*}}:e:{tenant}:*"
    counts = []
    for node in range(3):
        with admin(cluster, node) as client:
            counts.append(sum(1 for _ in client.scan_iter(name, count=1000)))
    return counts


def allow(cache: Cache, **quotas: Quota) -> None:
    CacheMonitor(cache).tell_quotas(Quotas(tenants=quotas), (), 60)


def used(cluster: EmbeddedCluster, node: int) -> int:
    with admin(cluster, node) as client:
        facts = client.info("memory")
        return int(facts["used_memory"]) - int(facts["mem_not_counted_for_evict"])


def bytes_of(cache: Cache, tenant: str) -> int:
    return CacheMonitor(cache).get_makeup(SAMPLE).tenants[tenant].bytes
