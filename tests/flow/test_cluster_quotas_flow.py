"""A fleet keeps a tenant to his quota on a cluster, though a worker is killed and a node stands still."""

import pytest
from redis.crc import key_slot

from stoker.cache import CacheMonitor
from stoker.cache.keys import quotas as quotas_key
from stoker.cache.quotas import Quota
from stoker.config import open_cache
from stoker.tasks import configure, runtime
from stoker.worker.embedded_cluster import start_cluster
from stoker.worker.processes import Processes
from tests.cache.cluster_nodes import owner, stopped
from tests.flow.conftest import Deployment
from tests.waiting import wait_until

MOST = 5_000_000
"""The noisy tenant's hard quota in bytes."""
KEPT = {f"k:{number}": b"x" * 1000 for number in range(1500)}
ENVIRONMENT = {
    "STOKER_CACHE_CLUSTER": "true",
    "STOKER_BEAT__WATCH_EVERY": "1",
    "STOKER_BEAT__EVICT_EVERY": "5",
    "STOKER_JOB__BATCH": "500",
    "STOKER_JOB__LOCK_TTL": "2",
}


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_tenant_that_floods_a_cluster_comes_down_to_his_quota_and_others_lose_nothing(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Processes() as processes:
        cluster = start_cluster(processes, node_timeout_s=60.0)
        ours = {**ENVIRONMENT, "STOKER_CACHE_URL": cluster.url}
        for name, value in ours.items():
            monkeypatch.setenv(name, value)
        deployment = Deployment({**environment, **ours}, processes)
        configure(deployment.settings)
        pressure = runtime.current().pressure
        with open_cache(deployment.settings) as cache:
            monitor = CacheMonitor(cache)
            cache.set_many(KEPT, "quiet", ttl=600)
            cache.set_many({f"k:{number}": b"x" * 1000 for number in range(8000)}, "noisy", ttl=600)
            pressure.set_quota("noisy", Quota(hard=MOST))
            # Given a worker that has found him full, and is killed
            doomed = deployment.worker("a", 2)
            deployment.start("beat", "beat", ready="beat: Starting")
            wait_until(lambda: (last := pressure.last()) is not None and last.full == ("noisy",))
            deployment.kill(doomed)
            # When another takes over, and a node stands still
            with_map = owner(cluster, key_slot(quotas_key(deployment.settings.namespace)))
            # (not the node with the map, nor that of the URL: who comes new cannot do without these)
            with stopped(cluster, 1 if with_map != 1 else 2) as name:
                deployment.worker("b", 2)
                wait_until(lambda: (last := pressure.last()) is not None and last.missing == (name,))

            def known() -> str:
                made, jobs = pressure.composition(), deployment.jobs.recent(100)
                evictions = [(job.state, job.error, job.report) for job in jobs if job.kind == "evict"]
                return f"{pressure.last()} {made and made.tenants} {evictions}"

            wait_until(
                lambda: (last := pressure.last()) is not None and not (last.missing or last.full),
                describe=known,
            )

            # Then he is within his quota on the whole, may store again, and nobody else has lost anything
            def has() -> int:
                return monitor.get_makeup(4000).tenants["noisy"].bytes

            assert 0.5 * MOST < has() < 1.1 * MOST
            wait_until(lambda: cache.set("new", 1, "noisy"))
            assert cache.get_many(KEPT, "quiet") == KEPT
        evictions = [job.report for job in deployment.jobs.recent(100) if job.kind == "evict" and job.final]
        assert sum(report.get("over_quota", 0) for report in evictions) > 0
        assert all(report.get("least_worth", 0) == 0 for report in evictions)
        runtime.current().close()
        deployment.kill_all()
