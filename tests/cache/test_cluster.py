"""A cache on a real cluster: what is different from one server. What is not, the contract's tests say."""

import itertools
import json
import os
import re
import signal
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from stoker.cache import (
    Cache,
    CacheConfig,
    CacheMonitor,
    CacheSharder,
    CacheShardingConfig,
    ConfigError,
    InvalidationNotAcknowledged,
)
from stoker.cache.hot_reports import collect
from stoker.cache.quotas import Quota, Quotas, Refusals
from stoker.cache.shards import CLUSTER_SHARDS, Placement
from stoker.worker.embedded_cluster import EmbeddedCluster
from tests.cache import test_least_acl
from tests.cache.awaited import Awaited
from tests.cache.cluster_nodes import VALUES, Move, admin, migrate, move_by_keys, owner, shard_of, slots_of
from tests.cache.conftest import MakeCache
from tests.cache.copied import copied
from tests.plain_cluster import plain_cluster
from tests.waiting import wait_until


@pytest.fixture(params=["called", "awaited"])
def cache(request: pytest.FixtureRequest, make_clustered: MakeCache) -> Iterator[Cache]:
    """A cache on the cluster, to be called and to be awaited."""
    if request.param == "called":
        yield make_clustered()
        return
    with make_clustered(Awaited) as cache:
        yield cache
    cache.end()  # type: ignore[attr-defined]


def test_every_operation_works_over_all_nodes(cache: Cache) -> None:
    assert cache.ping() is True
    assert cache.set_many(VALUES, tags=["t"]) is True
    assert cache.get_many([*VALUES, "absent"]) == VALUES
    cache.invalidate_pattern("k1*")
    left = {key: value for key, value in VALUES.items() if not key.startswith("k1")}
    assert cache.get_many(VALUES) == left
    assert cache.delete("k2") is True
    assert cache.get("k2") is None
    assert cache.get_or_load("k2", lambda: 7) == cache.get("k2") == 7
    report = cache.sweep()
    assert (report.deleted, report.complete) == (len(VALUES) - len(left), True)
    monitor = CacheMonitor(cache)
    assert monitor.get_memory_usage()["cache_size"] == len(left)
    assert len(set(monitor.get_lives().incarnations)) == CLUSTER_SHARDS
    assert len(monitor.get_lives().servers) == 3
    assert collect(cache) != []
    assert collect(cache) == []
    cache.invalidate_tags(["t"])
    assert cache.get_many(VALUES) == {"k2": 7}
    cache.invalidate_tenant(None)
    assert cache.get_many(VALUES) == {}


def test_what_a_full_tenant_stores_is_not_there_any_more(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stoker.cache.quotas.LOOK_EVERY_S", 0.0)
    assert cache.set_many({"a": 1, "b": 2}, "full")
    CacheMonitor(cache).tell_quotas(Quotas(Quota(hard=1)), ["full"], 60)
    assert not cache.set_many({"a": 3, "b": 4}, "full")
    assert cache.get_many(["a", "b"], "full") == {}
    assert cache.set("a", 1, "other")


def test_keys_are_spread_over_sixty_four_shards_and_all_nodes(
    make_clustered: MakeCache, cache_cluster: EmbeddedCluster
) -> None:
    cache = make_clustered()
    cache.set_many(VALUES)
    assert len({key_slot(f"{{{cache.config.namespace}:{n}}}".encode()) for n in range(CLUSTER_SHARDS)}) > 60
    assert {owner(cache_cluster, slot) for slot in slots_of(cache)[:20]} == {0, 1, 2}


def test_a_hundred_thousand_keys_are_even_over_sixty_four_shards() -> None:
    placement = Placement(CLUSTER_SHARDS)
    counts = [0] * CLUSTER_SHARDS
    for n in range(100_000):
        counts[placement.shard_of("", f"user:{n}")] += 1
    assert max(counts) / (sum(counts) / len(counts)) <= 1.15


@pytest.mark.parametrize(
    ("shards", "nodes", "most"),
    [(64, 3, 1.08), (64, 6, 1.22), (64, 10, 1.41), (256, 3, 1.07), (256, 6, 1.12), (256, 10, 1.29)],
)
def test_shards_fall_on_nodes_as_the_page_says(shards: int, nodes: int, most: float) -> None:
    found = []
    for name in range(200):
        slots = [key_slot(f"{{ns{name}:{n}}}".encode()) for n in range(shards)]
        counts = Counter(slot * nodes // REDIS_CLUSTER_HASH_SLOTS for slot in slots)
        found.append(max(counts.values()) * nodes / shards)
    assert statistics.median(found) == pytest.approx(most, abs=0.005)


@pytest.mark.parametrize(
    ("shards", "nodes", "share"),
    [
        (64, 3, 99),
        (64, 6, 65),
        (64, 10, 26),
        (256, 3, 100),
        (256, 6, 96),
        (256, 10, 47),
        (512, 3, 100),
        (512, 6, 100),
        (512, 10, 100),
    ],
)
def test_as_many_namespaces_as_the_page_says_are_within_a_quarter_of_even(
    shards: int, nodes: int, share: int
) -> None:
    within = 0
    for name in range(200):
        slots = [key_slot(f"{{ns{name}:{n}}}".encode()) for n in range(shards)]
        most = max(Counter(slot * nodes // REDIS_CLUSTER_HASH_SLOTS for slot in slots).values())
        within += most * nodes / shards <= 1.25
    assert round(within / 2) == share


@pytest.mark.parametrize("how", [Cache, Awaited])
def test_under_uniform_load_no_node_has_a_quarter_more_than_its_share_of_commands(
    make_clustered: MakeCache, cache_cluster: EmbeddedCluster, how: Any
) -> None:
    # Given the namespace that a cache has by default, whose shards fall where they do
    with make_clustered(how, namespace="stoker") as cache:
        chance = Random(1)
        keys = [f"user:{n}" for n in range(5000)]
        before = commands(cache_cluster)
        # When keys of it are read and written, each as likely as any, and now and then many are invalidated
        for _ in range(300):
            cache.get_many(chance.sample(keys, 20))
            cache.set(chance.choice(keys), 1)
            cache.get_or_load(chance.choice(keys), lambda: 2)
            if chance.random() < 0.02:
                cache.invalidate_pattern(f"user:{chance.randrange(10)}*")
        after = commands(cache_cluster)
    if isinstance(cache, Awaited):
        cache.end()
    with plain_cluster(cache_cluster.url) as client:
        for name in list(client.scan_iter("{stoker*", count=1000)):
            client.delete(name)
    # Then its nodes have alike to do, reads of control records and what scripts do included
    done = [after[node] - before[node] for node in range(3)]
    print(f"commands by node: {done}")  # noqa: T201 - shown if it fails
    assert max(done) / statistics.mean(done) <= 1.25


def commands(cluster: EmbeddedCluster) -> list[int]:
    """How many each node has carried out since it was started, those that scripts call too."""
    counts = []
    for node in range(3):
        with admin(cluster, node) as one:
            counts.append(sum(stats["calls"] for stats in one.info("commandstats").values()))
    return counts


def test_the_documented_acl_is_enough_on_a_cluster(
    make_clustered: MakeCache, cache_cluster: EmbeddedCluster, namespace: str
) -> None:
    page = test_least_acl.PAGE.read_text(encoding="utf-8")
    [more] = re.findall(r"On a \[cluster\].* add `([^`]*)`", page)
    for node in range(3):
        with admin(cache_cluster, node) as one:
            test_least_acl.allow(one, namespace, [*test_least_acl.documented(one), *more.split()])
    url = cache_cluster.url.replace("://", f"://{namespace}:x@")
    cache = make_clustered(redis_url=url, near_size=10)
    assert cache.set_many(VALUES, tags=["t"])
    copied(cache, "k1")
    assert cache.get_or_load("l", lambda: 2) == 2
    cache.invalidate_tags(["t"])
    cache.invalidate_pattern("k?9")
    assert cache.get_many(VALUES) == {}
    assert cache.sweep().complete
    assert cache.delete("l") is True
    assert cache.evict(target_bytes=1).reason
    assert CacheMonitor(cache).get_memory_usage()["hits"] > 0
    assert collect(cache)
    assert cache.ping()
    assert cache.stats().unavailable == 0


def test_entries_of_many_shards_of_a_node_are_weighed_and_evicted(make_clustered: MakeCache) -> None:
    cache = make_clustered()
    cache.set_many(VALUES)
    makeup = CacheMonitor(cache).get_makeup()
    assert sum(share.entries for share in makeup.tenants.values()) > 0
    assert cache.evict(target_bytes=1).dropped > 0
    assert cache.get_many(VALUES) == {}


def test_the_distribution_counts_the_entries_of_all_nodes(make_clustered: MakeCache) -> None:
    cache = make_clustered()
    sharder = CacheSharder(cache, CacheShardingConfig(True, 8))
    cache.set_many(VALUES)
    found = sharder.distribution()
    assert found == {n: sum(sharder.shard_for(key) == n for key in VALUES) for n in range(8)}


def test_what_one_node_does_not_answer_names_its_shards_and_costs_no_other(
    make_clustered: MakeCache, cache_cluster: EmbeddedCluster
) -> None:
    cache = make_clustered(timeout=0.3, breaker_reset=0.05)
    cache.set_many(VALUES)
    on_it = {n for n, slot in enumerate(slots_of(cache)) if owner(cache_cluster, slot) == 1}
    os.kill(cache_cluster.primaries[1].child.pid, signal.SIGSTOP)
    try:
        found = cache.get_many(VALUES)
        with pytest.raises(InvalidationNotAcknowledged) as told:
            cache.invalidate_pattern("k*")
    finally:
        os.kill(cache_cluster.primaries[1].child.pid, signal.SIGCONT)
    assert {key: value for key, value in VALUES.items() if shard_of(cache, key) not in on_it} == found
    names = ", ".join(f"shard {n}" for n in sorted(on_it))
    assert f"{len(on_it)} of 64 had no answer: {names}: TimeoutError" in str(told.value)
    assert f":{cache_cluster.primaries[1].port}" in str(told.value)
    wait_until(lambda: _acknowledged(cache))
    assert cache.get_many(VALUES) == {}


@pytest.mark.slow
@pytest.mark.parametrize("how", [Cache, Awaited])
def test_nodes_are_asked_at_the_same_time(
    make_clustered: MakeCache, cache_cluster: EmbeddedCluster, how: Any
) -> None:
    cache = make_clustered(how, timeout=1.0)
    assert cache.set_many(VALUES)
    nodes = [server.child.pid for server in cache_cluster.primaries]
    for pid in nodes:
        os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    try:
        assert cache.get_many(VALUES) == {}
    finally:
        seconds = time.monotonic() - began
        for pid in nodes:
            os.kill(pid, signal.SIGCONT)
    assert 1 <= seconds < 2.5
    if isinstance(cache, Awaited):
        cache.end()


def test_a_node_that_cannot_say_who_is_full_holds_up_no_other(
    make_clustered: MakeCache, cache_cluster: EmbeddedCluster
) -> None:
    cache = make_clustered(timeout=0.3)
    assert cache.set_many(VALUES)
    backend: Any = cache._core.backend
    asked = owner(cache_cluster, key_slot(backend._traffic_key))
    key = next(key for key in VALUES if owner(cache_cluster, slots_of(cache)[shard_of(cache, key)]) != asked)
    os.kill(cache_cluster.primaries[asked].child.pid, signal.SIGSTOP)
    try:
        backend._refusals._due = 0  # it is to be asked for
        assert cache.set(key, "new") is True
        assert cache.get(key) == "new"
    finally:
        os.kill(cache_cluster.primaries[asked].child.pid, signal.SIGCONT)


def _acknowledged(cache: Cache) -> bool:
    try:
        cache.invalidate_pattern("k*")
    except InvalidationNotAcknowledged:
        return False
    return True


def test_a_namespace_of_one_shard_is_like_any_other(cache: Cache) -> None:
    CacheSharder(cache, CacheShardingConfig(True, 1)).enable_sharding()
    assert cache.set_many(VALUES, tags=["t"]) is True
    assert cache.get_many([*VALUES, "absent"]) == VALUES
    assert cache.get("k1") == cache.get_or_load("k1", lambda: 7) == 1
    cache.invalidate_pattern("k?")
    assert len(cache.get_many(VALUES)) == len(VALUES) - 10
    cache.invalidate_tags(["t"])
    assert cache.get_many(VALUES) == {}
    assert cache.sweep().complete


def test_what_a_full_tenant_stores_is_refused_on_all_nodes(cache: Cache) -> None:
    assert cache.set_many(VALUES, "acme") is True
    CacheMonitor(cache).tell_quotas(Quotas(Quota(hard=1)), ["acme"], kept=30)
    backend: Any = cache._core.backend
    backend._refusals._due = 0  # what it has heard lately
    assert cache.set_many(VALUES, "acme") is False
    assert cache.get_many(VALUES, "acme") == {}
    assert cache.set("k1", 2, "acme") is False
    assert cache.get_or_load("k1", lambda: 7, "acme") == 7
    assert cache.get("k1", "acme") is None
    assert cache.set("k1", 2) is True


def test_that_it_is_time_to_ask_who_is_full_is_seen_once(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache.set("k1", 1) is True
    looks = itertools.count()
    monkeypatch.setattr(Refusals, "any", True)
    monkeypatch.setattr(Refusals, "due", property(lambda _: next(looks) > 0))
    assert cache.set("k1", 2) is True
    assert cache.get("k1") == 2


def test_a_server_that_is_no_cluster_is_told(cache_server: str) -> None:
    with Cache(CacheConfig(backend="redis", redis_url=cache_server, cluster=True)) as cache:
        assert cache.get("k") is None
        with pytest.raises(InvalidationNotAcknowledged, match="Cluster mode is not enabled"):
            cache.delete("k")


def test_a_node_of_a_cluster_that_was_not_said_to_be_one_is_told(cache_cluster: EmbeddedCluster) -> None:
    with (
        Cache(CacheConfig(backend="redis", redis_url=cache_cluster.url, namespace="plain")) as cache,
        pytest.raises(InvalidationNotAcknowledged, match=r"cluster=True|CROSSSLOT"),
    ):
        cache.invalidate_pattern("*")


@pytest.mark.parametrize("url", ["unix:///tmp/s", "redis://localhost:7000/1", "redis://localhost:7000?db=2"])
def test_a_cluster_has_no_databases_and_no_sockets(url: str) -> None:
    with pytest.raises(ConfigError, match="database 0 only"):
        CacheConfig(backend="redis", redis_url=url, cluster=True)


@pytest.mark.parametrize("move", [migrate, pytest.param(move_by_keys, marks=pytest.mark.slow)])
def test_a_shard_whose_slot_was_moved_begins_cold_at_its_new_node_and_goes_on(
    cache: Cache, cache_cluster: EmbeddedCluster, move: Move
) -> None:
    cache.set_many(VALUES)
    shard = cache.explain("k7")["shard"]
    slot = slots_of(cache)[shard]
    move(cache_cluster, slot, (owner(cache_cluster, slot) + 1) % 3)
    found = cache.get_many(VALUES)
    moved = {key for key in VALUES if cache.explain(key)["shard"] == shard}
    assert VALUES.keys() - found.keys() == moved
    assert cache.set("k7", "new") is True
    assert cache.get("k7") == "new"
    cache.invalidate_pattern("k*")
    assert cache.get_many(VALUES) == {}


@pytest.mark.parametrize("back", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_sweep_begins_again_on_a_node_to_which_a_slot_has_come(
    make_clustered: MakeCache, cache_cluster: EmbeddedCluster, back: bool
) -> None:
    # Given a sweep under way on the first node
    cache = make_clustered(max_load=0.1, lease=0.1)
    cache.set_many(VALUES)
    cache.invalidate_pattern("k*")
    steps = cache.sweep_steps(batch=1)
    cursor = json.loads(json.dumps(next(steps).cursor))
    first = [f"127.0.0.1:{server.port}" for server in cache_cluster.primaries].index(cursor["node"])
    # When a slot comes to it, or goes and comes back
    slot = next(one for one in slots_of(cache) if (owner(cache_cluster, one) == first) is back)
    if back:
        migrate(cache_cluster, slot, (first + 1) % 3)
    migrate(cache_cluster, slot, first)
    # Then its walk begins again, and ends with nothing left of what was killed
    *_, last = steps
    assert (last.report.restarts, last.report.complete) == (1, True)
    assert sum(cache._run(cache._core.backend.entries_by_shard()).values()) == 0
    # And a process that goes on from the cursor of before does not go on from there
    *_, last = cache.sweep_steps(cursor=cursor)
    assert last.report.complete
