"""Memory pressure and quotas as the fleet sees them on a cluster: of nodes by their own limits, of tenants on all."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest
from redis.crc import key_slot

from stoker.cache import CacheMonitor
from stoker.cache.keys import quotas as quotas_key
from stoker.cache.pressure import Node
from stoker.cache.quotas import Quota
from stoker.config import Settings, open_cache
from stoker.tasks import configure, names, runtime
from stoker.tasks.pressure import look, point_of
from stoker.worker.embedded_cluster import EmbeddedCluster, start_cluster
from stoker.worker.processes import Processes
from tests.cache.cluster_nodes import admin, owner, stopped
from tests.tasks.hostile import run
from tests.tasks.pressing import LIMIT, used
from tests.waiting import wait_until

LOW, HIGH = 0.8, 0.9
VALUES = {f"k:{n}": "x" * 500 for n in range(1500)}


def nodes(**shares: float) -> Node:
    """Some with equal limits, of which such shares are used."""
    whole = used(sum(shares.values()) / len(shares))
    return replace(whole, shares=shares)


@pytest.fixture
def settings(settings: Settings, cache_cluster: EmbeddedCluster, namespace: str) -> Iterator[Settings]:
    """Those of the other tests, with the cache on a cluster."""
    yield settings.model_copy(update={"cache_url": cache_cluster.url, "cache_cluster": True})
    for node in range(3):
        with admin(cache_cluster, node) as client:
            pipeline = client.pipeline(transaction=False)  # each key by itself: they are in many slots
            for name in client.scan_iter(f"{{{namespace}*", count=1000):
                pipeline.unlink(name)
            pipeline.execute()


def test_a_node_is_short_from_its_high_mark_until_its_low_one() -> None:
    point, seen = None, []
    looks = [
        nodes(a=0.91, b=0.85),
        nodes(a=0.85, b=0.85),
        nodes(a=0.79, b=0.85),  # which never was above its high mark
        nodes(a=0.85, b=0.91),
        nodes(a=0.85, b=0.79),
    ]
    for second, found in enumerate(looks):
        point = point_of(found, float(second), point, LOW, HIGH)
        seen.append((point.pressed, point.short))
    assert seen == [(True, ("a",)), (True, ("a",)), (False, ()), (True, ("b",)), (False, ())]
    assert point is not None
    assert (point.share, point.fullest) == (0.85, 0.85)


def test_what_a_node_without_an_answer_has_did_not_come_free() -> None:
    first = point_of(nodes(a=0.5, b=0.5), 0.0, None, LOW, HIGH)
    second = point_of(nodes(a=0.6, b=0.5), 10.0, first, LOW, HIGH)
    without = replace(nodes(a=0.6), used_bytes=LIMIT // 3, missing=("b",))
    third = point_of(without, 20.0, second, LOW, HIGH)
    assert third.slope == second.slope > 0
    assert third.missing == ("b",)


def test_a_tenant_above_his_quota_stores_nothing_more_until_he_is_brought_down_to_it(
    here: runtime.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stoker.cache.evict.FIRST_LOOK_S", 0.02)  # memory does not rise any more
    with open_cache(here.settings) as app:
        app.set_many(VALUES, "noisy")
        app.set_many({"k": 1}, "quiet")
        size = CacheMonitor(app).get_makeup(3000).tenants["noisy"].bytes
        here.pressure.set_quota("noisy", Quota(hard=size // 2))
        point = look(here)
        assert point.full == ("noisy",)
        assert 0 < point.fullest < HIGH
        refusals = app._core.backend._refusals  # type: ignore[attr-defined]
        refusals._due = 0.0
        assert app.get_or_load("new", lambda: 5, "noisy") == 5  # the caller has its value
        assert app.get("new", "noisy") is None
        for _ in range(5):  # a sample may leave him a little above
            if point.full:
                [job] = [job for job in here.jobs.recent(10) if job.kind == "evict" and not job.final]
                assert run(names.EVICT, {"job_id": job.id}, job.id)[0] == "SUCCESS"
                point = look(here)
        assert point.full == ()
        refusals._due = 0.0
        assert app.set("new", 5, "noisy") is True
        left = len(app.get_many(VALUES, "noisy"))
        assert 0.25 < left / len(VALUES) < 0.5
        assert app.get("k", "quiet") == 1


@pytest.mark.slow
def test_a_look_tells_which_node_has_no_answer_and_what_the_others_have(settings: Settings) -> None:
    with Processes() as processes:
        cluster = start_cluster(processes, node_timeout_s=60.0)
        own = settings.model_copy(
            update={"cache_url": cluster.url, "cache_timeout": 2.0, "cache_breaker_failures": 1}
        )
        configure(own)
        with closing(runtime.current()) as here:
            here.pressure.set_quota("noisy", Quota(hard=1000))
            with open_cache(own) as app:
                app.set_many(VALUES, "noisy")
            before = look(here)
            with_map = owner(cluster, key_slot(quotas_key(own.namespace)))
            # When that is which has the map, the quotas and the counts of reads, and another one
            for node in (with_map, (with_map + 1) % 3):
                with stopped(cluster, node) as name:
                    point = look(here)
                    found = here.pressure.composition()
                assert point.missing == (name,)
                assert point.full == ("noisy",)
                assert point.limit == pytest.approx(before.limit * 2 / 3)
                assert found is not None
                assert found.missing == (name,)
                assert found.entries == pytest.approx(len(VALUES) * 2 / 3, rel=0.4)
                wait_until(here.cache.ping)
        # And when the map is not known yet, and cannot be read, in a process that has just begun
        configure(own.model_copy(update={"cache_url": cluster.primaries[(with_map + 1) % 3].url}))
        with closing(runtime.current()) as new, stopped(cluster, with_map) as name:
            point = look(new)
            assert new.pressure.composition() == found
        assert (point.missing, point.full) == ((name,), ("noisy",))
