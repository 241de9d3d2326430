"""What the doctor says of a cache on a cluster."""

from stoker.cache import Cache, CacheConfig
from stoker.config import Settings
from stoker.worker.doctor.check import Finding, Severity
from stoker.worker.doctor.run import diagnose
from stoker.worker.embedded import Server
from stoker.worker.embedded_cluster import EmbeddedCluster
from tests.plain_cluster import plain_cluster
from tests.worker.doctor.asking import ERROR, NOTE


def asked(url: str, namespace: str, *checks: str) -> list[Finding]:
    return list(diagnose(Settings(cache_url=url, cache_cluster=True, namespace=namespace), checks))


def test_each_node_is_looked_at(cache_cluster: EmbeddedCluster, namespace: str) -> None:
    url = cache_cluster.url
    with Cache(CacheConfig(backend="redis", redis_url=url, cluster=True, namespace=namespace)) as cache:
        cache.set("k", 1)
    findings = asked(url, namespace, "redis", "misses", "memory", "latency", "sharding")
    assert {f.severity for f in findings if f.check in ("redis", "memory", "latency")} == {Severity.OK}
    slots: list[int] = []
    for server in cache_cluster.primaries:
        address = f"127.0.0.1:{server.port}"
        [told] = [f.seen for f in findings if f.seen.startswith(f"{address} has ")]
        slots.append(int(told.removeprefix(f"{address} has ").removesuffix(" slots").replace(",", "")))
        assert any(f" at {address} answers in" in f.seen for f in findings)
        assert any(f" used at {address}, " in f.seen for f in findings)
    assert sum(slots) == 16_384  # other tests of this cluster move some
    assert min(slots) > 5000
    assert "the map says 64 shards, as these settings do" in [f.seen for f in findings]
    assert {f.severity for f in findings} <= {Severity.OK, NOTE}


def test_entries_of_earlier_lives_are_told_on_a_cluster_too(
    cache_cluster: EmbeddedCluster, namespace: str
) -> None:
    url = cache_cluster.url
    with (
        Cache(CacheConfig(backend="redis", redis_url=url, cluster=True, namespace=namespace)) as cache,
        plain_cluster(url) as client,
    ):
        for life in range(3):
            cache.set_many({f"{life}:{n}": n for n in range(200)})
            for shard in range(64):
                client.delete(f"{{{namespace}:{shard}}}:ctl")
    findings = [f for f in asked(url, namespace, "misses") if f.severity > Severity.OK]
    assert any("are of earlier lives of the cache: it began cold" in f.seen for f in findings), findings


def test_a_server_that_is_no_node_of_a_cluster_is_an_error(cache_server: Server, namespace: str) -> None:
    [finding] = asked(cache_server.url, namespace, "redis")
    assert (finding.check, finding.severity) == ("redis", ERROR)
    assert "STOKER_CACHE_CLUSTER" in str(finding.remedy)
