"""Tenants' quotas on a real cluster: they are of all nodes together, and each node takes its part of what is above."""

from collections.abc import Mapping
from typing import Any, cast

import pytest

from stoker.cache import CacheMonitor, CacheSharder, CacheShardingConfig
from stoker.cache.cluster import Round, Router
from stoker.cache.errors import CacheUnavailable
from stoker.cache.parts import Answers, Layout, NotAll, wherever
from stoker.cache.quotas import Quota, Quotas, over, portions
from stoker.cache.wire import Operation, asking_nobody, finished
from stoker.worker.embedded_cluster import EmbeddedCluster
from tests.cache.cluster_nodes import admin
from tests.cache.cluster_tenants import NOISY, QUIET, SAMPLE, allow, bytes_of, entries_of, left, put, used
from tests.cache.conftest import MakeCache


def test_who_has_more_than_his_quota_is_decided_over_all_nodes() -> None:
    quotas = Quotas(Quota(soft=0.5), {"hard": Quota(hard=90), "both": Quota(soft=10, hard=40)})
    sizes = {
        "a": {"hard": 80, "both": 12, "much": 300, "": 900, "pinned": 600},
        "b": {"hard": 40, "both": 24, "much": 150, "little": 400},
        "c": {"little": 99},
    }
    found = portions(quotas, sizes, 1000)
    assert found["a"] == Quotas(
        tenants={"hard": Quota(hard=60), "both": Quota(soft=3), "pinned": Quota(soft=500)}
    )  # who is not above his hard quota is not bound by his part of it
    assert found["b"] == Quotas(tenants={"hard": Quota(hard=30), "both": Quota(soft=7)})
    assert found["c"] == Quotas()


def test_the_nodes_together_take_what_one_server_would() -> None:
    quotas = Quotas(tenants={"a:b%": Quota(soft=0.1, hard=0.2)})
    sizes = {"a": {"a%3Ab%25": 40_000}, "b": {"a%3Ab%25": 11_000}}
    one = over(quotas, {"a%3Ab%25": 51_000}, 100_000)
    parts = portions(quotas, sizes, 100_000)
    many = [over(parts[node], sizes[node], 0) for node in sizes]
    assert sum(part.hard["a%3Ab%25"] for part in many) == pytest.approx(one.hard["a%3Ab%25"], abs=1)
    assert sum(part.soft["a%3Ab%25"] for part in many) == pytest.approx(one.soft["a%3Ab%25"], abs=1)


def test_what_is_above_a_hard_quota_goes_from_each_node_in_proportion(
    make_clustered: MakeCache, cache_cluster: EmbeddedCluster
) -> None:
    cache = make_clustered()
    put(cache, "noisy", NOISY)
    put(cache, "quiet", QUIET)
    size, before = bytes_of(cache, "noisy"), entries_of(cache, cache_cluster, "noisy")
    hard = size // 2  # as much as he has on a node, or more
    allow(cache, noisy=Quota(hard=hard), quiet=Quota(hard=10**9))
    report = cache.evict()
    assert report.over_quota == report.dropped == NOISY - left(cache, "noisy", NOISY)
    assert report.reason == "took from tenants what is above their quotas"
    assert left(cache, "quiet", QUIET) == QUIET
    assert bytes_of(cache, "noisy") == pytest.approx(0.81 * hard, rel=0.25)
    for had, has in zip(before, entries_of(cache, cache_cluster, "noisy"), strict=True):
        assert has / had == pytest.approx(0.405, abs=0.15)


def test_where_a_node_is_short_it_takes_first_from_who_has_more_than_his_soft_quota(
    make_clustered: MakeCache, cache_cluster: EmbeddedCluster
) -> None:
    cache = make_clustered(low_watermark=0.88)  # so that less has to go than is above the quota
    put(cache, "noisy", 2 * NOISY)
    put(cache, "quiet", 2 * NOISY)
    before = entries_of(cache, cache_cluster, "noisy")
    allow(cache, noisy=Quota(soft=bytes_of(cache, "noisy") // 4))
    assert cache.evict().dropped == 0  # nothing is short
    full = used(cache_cluster, 1)
    with admin(cache_cluster, 1) as client:
        most = client.config_get("maxmemory")["maxmemory"]
        client.config_set("maxmemory", int(full / 0.93))
        try:
            report = cache.evict()
        finally:
            client.config_set("maxmemory", most)
    after = entries_of(cache, cache_cluster, "noisy")
    assert (after[0], after[2]) == (before[0], before[2])
    assert 0 < report.over_quota <= before[1] - after[1]
    assert report.least_worth < 0.1 * report.over_quota  # what a sample leaves open
    assert used(cache_cluster, 1) < full


def test_who_has_it_all_in_one_place_may_have_as_much_as_others(
    make_clustered: MakeCache, cache_cluster: EmbeddedCluster
) -> None:
    cache = make_clustered()
    CacheSharder(cache, CacheShardingConfig(True, 64, pins={"pinned": 3})).enable_sharding()
    put(cache, "pinned", NOISY)
    put(cache, "quiet", QUIET)
    assert sorted(entries_of(cache, cache_cluster, "pinned")) == [0, 0, NOISY]
    size = bytes_of(cache, "pinned")
    allow(cache, pinned=Quota(hard=2 * size), quiet=Quota(hard=10**9))
    assert cache.evict().dropped == 0
    allow(cache, pinned=Quota(hard=size // 2), quiet=Quota(hard=10**9))
    report = cache.evict()
    assert report.over_quota == report.dropped == NOISY - left(cache, "pinned", NOISY)
    assert bytes_of(cache, "pinned") == pytest.approx(0.405 * size, rel=0.25)
    assert left(cache, "quiet", QUIET) == QUIET


def test_shares_are_of_the_room_of_all_nodes(
    make_clustered: MakeCache, cache_cluster: EmbeddedCluster
) -> None:
    cache = make_clustered()
    put(cache, "noisy", NOISY)
    monitor = CacheMonitor(cache)
    makeup = monitor.get_makeup(SAMPLE)
    with admin(cache_cluster, 0) as client:
        assert makeup.limit_bytes == 3 * int(client.config_get("maxmemory")["maxmemory"])
    share = makeup.tenants["noisy"].bytes / makeup.room(cache.config.low_watermark)
    assert monitor.get_full(Quotas(Quota(hard=1.1 * share)), makeup) == []
    assert monitor.get_full(Quotas(Quota(hard=0.9 * share)), makeup) == ["noisy"]


def test_nodes_without_an_answer_are_named_and_cost_the_others_nothing() -> None:
    answers = asked({"a": b"1", "b": CacheUnavailable("redis", "gone"), "c": b"3"})
    assert (answers.of, answers.missing) == ({"a": b"1", "c": b"3"}, ("b",))
    assert answers.why == "1 of 3 had no answer: b: gone (b)"
    assert asked({"a": b"1"}) == ({"a": b"1"}, (), "")
    with pytest.raises(NotAll, match="gone"):
        asked({"a": CacheUnavailable("redis", "gone")})


def asked(said: Mapping[str, bytes | CacheUnavailable]) -> Answers:
    """What comes of nodes that say so, and of such as cannot be reached."""

    @asking_nobody
    def answer(node: str, _layout: Layout) -> bytes | CacheUnavailable:
        return said[node]

    def outcome(node: str, operation: Operation[Any]) -> Any:
        found = said[node]
        return found if isinstance(found, CacheUnavailable) else finished(operation)

    steps = Router().run(wherever(answer))
    effect: Any = next(steps)
    try:
        while True:
            if isinstance(effect, Round):
                effect = steps.send({node: outcome(node, its) for node, its in effect.operations.items()})
            else:
                effect = steps.send(Layout([*said]))
    except StopIteration as stop:
        return cast("Answers", stop.value)
