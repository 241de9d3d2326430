"""Changing where keys live with real workers: from the command line, and while they are killed."""

import random
import time

import pytest

from stoker.cache import Cache
from stoker.config import Settings, open_cache
from stoker.tasks import send
from stoker.worker.embedded_cluster import EmbeddedCluster
from tests.flow.conftest import Deployment

KEYS = [f"app:{n}" for n in range(200)]


@pytest.mark.slow
@pytest.mark.soak
def test_an_operator_changes_it_and_apps_go_on(deployment: Deployment, other_cache: Cache) -> None:
    # Given an app that runs, with what it has stored
    deployment.worker()
    other_cache.set_many(dict.fromkeys(KEYS, "old"), "acme")
    # When the number of shards is changed, and a tenant pinned
    deployment.start("reshard", "reshard", "--num-shards", "8", "--pin", "acme=3", "--yes", ready="unlinked")
    # Then the app goes by that, cold
    assert other_cache.get_many(KEYS, "acme") == {}
    assert other_cache.set("app:1", "new", "acme")
    assert other_cache.explain("app:1", "acme")["shard"] == 3
    # And the same, asked for once more, changes nothing
    report = send.reshard(8, pin={"acme": 3}).wait(timeout=60).report
    assert report == {"num_shards": 8, "pins": {"acme": 3}, "before": None, "unlinked": 0}
    assert other_cache.get("app:1", "acme") == "new"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("clustered", [False, True])
def test_a_worker_that_is_killed_at_any_moment_of_the_change_loses_neither_it_nor_an_invalidation(
    deployment: Deployment,
    cache_cluster: EmbeddedCluster,
    monkeypatch: pytest.MonkeyPatch,
    clustered: bool,
) -> None:
    seed = random.randrange(2**16)
    print(f"seed {seed}")  # noqa: T201 - shown if it fails
    chance = random.Random(seed)
    where = {"STOKER_CACHE_URL": cache_cluster.url, "STOKER_CACHE_CLUSTER": "true"} if clustered else {}
    for name, value in where.items():
        monkeypatch.setenv(name, value)
    deployment.start("beat", "beat", ready="beat: Starting", STOKER_BEAT__REAP_EVERY="1", **where)
    with open_cache(Settings()) as app, open_cache(Settings()) as other:
        for shards in (5, 64, 3, 16):
            # Given two processes that have what is true
            app.set_many(dict.fromkeys(KEYS, shards), "acme")
            assert len(other.get_many(KEYS, "acme")) == len(KEYS)
            worker = deployment.worker("a", 1, **where)
            job = send.reshard(shards)
            # When the worker is killed, somewhere between taking the job and ending it
            deployment.wait_for(job, lambda status: status.state != "queued")
            time.sleep(chance.random() * 0.03)  # any moment will do
            deployment.kill(worker)
            # Then what is invalidated now is read by nobody
            app.invalidate_pattern("app:1*", "acme")
            assert not [key for key in other.get_many(KEYS, "acme") if key.startswith("app:1")]
            # And another worker brings the change to its end
            worker = deployment.worker("b", 1, **where)
            assert job.wait(timeout=60).report["num_shards"] == shards
            assert other.set("app:7", "new", "acme")
            assert app.get("app:7", "acme") == "new"
            assert not [key for key in app.get_many(KEYS, "acme") if key.startswith("app:1")]
            deployment.kill(worker)
