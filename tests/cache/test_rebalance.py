"""Moving slots of a real cluster: their shards keep their hits, and nothing stale is served, whatever happens."""

import os
import re
import shutil
import sys
import threading
import time
from functools import partial
from random import Random
from types import SimpleNamespace

import pytest

from stoker.cache import (
    Cache,
    CacheConfig,
    ConfigError,
    RebalancePlan,
    RebalanceReport,
    Step,
    cold_move,
    rebalance,
)
from stoker.cache import hand_over as handing
from stoker.cache.cluster_map import part_of
from stoker.cache.parts import at_once
from stoker.cache.programs import Sleep
from stoker.cache.shards import Placement
from stoker.cache.wire import asking_nobody, once
from stoker.worker import embedded
from stoker.worker.embedded_cluster import EmbeddedCluster
from tests.cache import test_least_acl
from tests.cache.awaited import Awaited
from tests.cache.cluster_load import Load
from tests.cache.cluster_nodes import VALUES, admin, owner, shard_of, slots_of
from tests.cache.conftest import MakeCache
from tests.cache.rebalancing import address, assert_settled, config_of, four_nodes, move_of, perform
from tests.plain_cluster import plain_cluster
from tests.waiting import wait_until

SEED = int(os.environ.get("STOKER_TEST_SEED", "1"))


def only(cluster: EmbeddedCluster, *empty: int) -> dict[str, float]:
    """Weights by which these nodes are emptied."""
    return {address(cluster, node): 0.0 for node in empty}


@pytest.mark.parametrize("awaited", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_slot_that_is_handed_over_keeps_its_entries_and_their_ttls(
    make_clustered: MakeCache,
    cache_cluster: EmbeddedCluster,
    awaited: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(handing, "in_time", lambda _: True)  # nobody else writes, however slow the machine is
    # Given a cache of four shards, all of whose slots are to leave one node that has some
    cache = make_clustered(Awaited if awaited else Cache)
    cache._core.backend.place(Placement(4))
    assert cache.set_many(VALUES, ttl=600)
    crowded = owner(cache_cluster, slots_of(cache)[0])
    # When they are moved
    report = cache.rebalance(weights=only(cache_cluster, crowded))
    # Then all is still there, at other nodes, for about as long as it was to be, and can be invalidated
    assert (report.moved, report.cold, report.failed) == (report.planned, 0, 0)
    assert report.planned >= 1
    assert report.after[address(cache_cluster, crowded)] == 0
    assert crowded not in {owner(cache_cluster, slot) for slot in slots_of(cache)}
    assert cache.get_many(VALUES) == VALUES
    assert abs(cache.explain("k0")["ttl_ms"] - 600_000) < 60_000
    assert_settled(cache, cache_cluster)
    cache.invalidate_pattern("k*")
    assert cache.get_many(VALUES) == {}
    if awaited:
        cache.end()  # type: ignore[attr-defined]


def test_what_was_expected_in_vain_is_taken_back_by_one_that_has_read_before(
    make_clustered: MakeCache,
) -> None:
    cache = make_clustered()
    cache.set("k", 1)
    assert cache.get("k") == 1
    space = cache._core.on_cluster().space
    shard = space.shard_of(None, "k")
    cache._run(at_once([part_of(shard, partial(once, handing.expect(shard, b"0123456789abcdef")))]))
    assert cache._run(handing.settle(space, [shard.keys.number])) == 1
    assert cache.get("k") == 1
    assert len(shard.view.control.boots) == 1
    assert shard.view.control.generation == 3


def test_a_plan_for_other_shards_is_made_anew(
    make_clustered: MakeCache, cache_cluster: EmbeddedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handing, "in_time", lambda _: True)
    cache = make_clustered()
    cache._core.backend.place(Placement(4))
    assert cache.set_many(VALUES, ttl=600)
    weights = only(cache_cluster, owner(cache_cluster, slots_of(cache)[0]))
    steps = cache.rebalance_steps(weights=weights)
    cursor = next(steps).cursor
    steps.close()
    moves = [{**move, "shards": [99]} for move in cursor["moves"]]
    outdated = {**cursor, "moves": moves, "placed": "0123456789abcdef"}
    cache.stop_rebalance(outdated)
    *_, last = cache.rebalance_steps(weights=weights, cursor=outdated)
    assert last.report.moved == last.report.planned == len(moves)
    assert cache.get_many(VALUES) == VALUES
    assert_settled(cache, cache_cluster)


def test_what_is_no_cluster_has_no_slots_to_move(make_redis: MakeCache) -> None:
    for cache in (make_redis(), Cache(CacheConfig())):
        with pytest.raises(ConfigError, match="only a cluster has slots to move"):
            cache.rebalance()
        with pytest.raises(ConfigError, match="only a cluster has slots to move"):
            cache.plan_rebalance()


def test_a_weight_of_nobody_is_refused_and_the_nodes_are_named(
    make_clustered: MakeCache, cache_cluster: EmbeddedCluster
) -> None:
    with pytest.raises(ConfigError, match=address(cache_cluster, 2)):
        make_clustered().plan_rebalance(weights={"10.0.0.1:1": 2})


def test_a_plan_by_bytes_weighs_what_entries_take(make_clustered: MakeCache) -> None:
    cache = make_clustered()
    cache.set_many({f"small:{n}": n for n in range(300)})
    cache.set_many({f"large:{n}": "x" * 10_000 for n in range(30)})
    plan = cache.plan_rebalance(by="bytes")
    assert sum(one.before for one in plan.nodes) == pytest.approx(1)
    assert max(abs(one.after - one.target) for one in plan.nodes) < 0.1
    assert plan.by == "bytes"


def test_a_plan_by_load_names_the_shard_that_is_too_hot_to_be_evened_out(
    make_clustered: MakeCache, cache_cluster: EmbeddedCluster
) -> None:
    cache = make_clustered()
    cache.set_many(VALUES)
    counting(cache_cluster, "yes")
    try:
        cache.get_many(VALUES)
        for _ in range(2000):
            cache.get("k7")
        plan = cache.plan_rebalance(by="load")
    finally:
        counting(cache_cluster, "no")
    hot = shard_of(cache, "k7")
    assert [one.shards for one in plan.hot] == [(hot,)]
    most = max(plan.nodes, key=lambda one: one.before)
    assert most.node == address(cache_cluster, owner(cache_cluster, slots_of(cache)[hot]))
    assert sum(one.before for one in plan.nodes) == pytest.approx(1)
    assert max(one.after for one in plan.nodes) <= most.before


def counting(cluster: EmbeddedCluster, enabled: str) -> None:
    """Whether nodes count what each slot costs."""
    for node in range(3):
        with admin(cluster, node) as one:
            one.config_set("cluster-slot-stats-enabled", enabled)


def test_it_waits_while_nodes_answer_slowly_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of its own: nodes answer in a millisecond, then in half a second, until they recover or for good."""

    def waited(slow_looks: float) -> tuple[float, int]:
        now, looks = 0.0, 0
        monkeypatch.setattr(rebalance, "time", SimpleNamespace(monotonic=lambda: now))
        steps = rebalance._calm(RebalanceReport(1), 0.001, {"at": 0})
        said = 0
        try:
            effect = next(steps)
            while True:
                if isinstance(effect, Sleep):
                    now += effect.seconds
                elif isinstance(effect, Step):
                    said += 1
                else:
                    looks += 1
                    now += 0.5 if looks <= slow_looks else 0.001
                effect = steps.send(None)
        except StopIteration as ended:
            return ended.value[0].waited_s, said

    assert waited(0) == (0, 0)
    assert waited(10) == (5, 5)
    assert waited(float("inf")) == (rebalance.LONGEST_WAIT_S, rebalance.LONGEST_WAIT_S)


@pytest.mark.slow
@pytest.mark.parametrize("server", ["redis-server", "valkey"])
def test_where_slots_cannot_be_moved_at_once_their_shards_begin_cold_at_the_other_node(
    monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    """Primaries with replicas: these have to know, too, and Valkey has them told before it does anything itself."""
    if server == "valkey":
        monkeypatch.setattr(handing, "can_move", asking_nobody(lambda _: False))
    elif (redis_7 := shutil.which(server)) is None:
        pytest.skip("there is no redis-server here")
    else:
        monkeypatch.setattr(embedded, "_binary", lambda: redis_7)
    with four_nodes(replicas=True) as (cluster, _), Cache(config_of(cluster)) as cache:
        cache.set_many(VALUES)
        before = [owner(cluster, slot) for slot in slots_of(cache)]
        report = cache.rebalance()
        assert (report.failed, report.complete, report.moved, report.cold) == (
            0,
            True,
            report.planned,
            report.planned,
        )
        assert report.planned > 4
        after = [owner(cluster, slot) for slot in slots_of(cache)]
        moved = {n for n, (old, new) in enumerate(zip(before, after, strict=True)) if old != new}
        found = cache.get_many(VALUES)
        assert {shard_of(cache, key) for key in VALUES.keys() - found.keys()} == moved
        assert_settled(cache, cluster)
        assert cache.set_many(VALUES)
        cache.invalidate_pattern("k1*")
        assert set(cache.get_many(VALUES)) == {key for key in VALUES if not key.startswith("k1")}


def test_a_slot_that_is_moved_cold_begins_at_the_other_node_and_may_come_back(
    make_clustered: MakeCache, cache_cluster: EmbeddedCluster
) -> None:
    cache = make_clustered()
    space = cache._core.on_cluster().space
    here = owner(cache_cluster, slots_of(cache)[5])
    for source, target in ((here, (here + 1) % 3), ((here + 1) % 3, here)):
        cache.set_many(VALUES)
        move = move_of(cache, cache_cluster, 5, source, target)
        assert perform(cache, cold_move.cold_move(space, move)).moved
        found = cache.get_many(VALUES)
        assert {shard_of(cache, key) for key in VALUES.keys() - found.keys()} == {5}
        assert owner(cache_cluster, move.slot) == target
    cache.set_many(VALUES)
    cache.invalidate_pattern("k1*")
    assert set(cache.get_many(VALUES)) == {key for key in VALUES if not key.startswith("k1")}
    assert_settled(cache, cache_cluster)


def test_the_documented_acl_is_enough_to_move_slots(
    make_clustered: MakeCache, cache_cluster: EmbeddedCluster, namespace: str
) -> None:
    operations = test_least_acl.PAGE.read_text(encoding="utf-8")
    page = test_least_acl.PAGE.with_name("cluster.md").read_text(encoding="utf-8")
    moving = page[page.index("## Moving slots") : page.index("## Sweeping")]
    found = [
        *re.findall(r"On a \[cluster\].* add `([^`]*)`", operations),
        *re.findall(r"`(\+[^`]*)`", moving),
    ]
    more = [command for commands in found for command in commands.split()]
    assert {"+asking", "+cluster|migrateslots"} < set(more)
    for node in range(3):
        with admin(cache_cluster, node) as one:
            test_least_acl.allow(one, namespace, [*test_least_acl.documented(one), *more])
    cache = make_clustered(redis_url=cache_cluster.url.replace("://", f"://{namespace}:x@"))
    cache.set_many(VALUES)
    crowded = owner(cache_cluster, slots_of(cache)[0])
    assert cache.plan_rebalance(weights=only(cache_cluster, crowded)).keys > 0
    space = cache._core.on_cluster().space
    for how in (cold_move.cold_move, handing.hand_over):
        source = owner(cache_cluster, slots_of(cache)[5])
        move = move_of(cache, cache_cluster, 5, source, (source + 1) % 3)
        assert perform(cache, how(space, move)).moved
    assert cache._run(handing.settle(space, [5])) == 1


def test_nothing_waits_or_moves_if_a_target_takes_nothing(
    make_clustered: MakeCache, cache_cluster: EmbeddedCluster
) -> None:
    cache = make_clustered()
    here = owner(cache_cluster, slots_of(cache)[5])
    move = move_of(cache, cache_cluster, 5, here, (here + 1) % 3)
    nobody = move._replace(target_id="0" * 40)
    outcome = perform(cache, cold_move.cold_move(cache._core.on_cluster().space, nobody))
    assert (outcome.moved, "nown node" in outcome.reason) == (False, True)
    assert cache.set_many(VALUES)
    assert cache.get_many(VALUES) == VALUES


class Static:
    """Keys that nobody changes, and a thread that reads them."""

    def __init__(self, config: CacheConfig, count: int) -> None:
        self.values = {f"kept:{n}": n for n in range(count)}
        self.seen: list[tuple[float, int, int]] = []
        self._cache = Cache(config)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read)
        assert self._cache.set_many(self.values, "quiet", ttl=3600)
        self._sample = list(self.values)[:: max(1, count // 500)]

    def __enter__(self) -> "Static":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(30)
        self._cache.close()

    def _read(self) -> None:
        chance, keys = Random(SEED), list(self.values)
        while not self._over.is_set():
            wanted = chance.sample(keys, 50)
            found = self._cache.get_many(wanted, "quiet")
            self.seen.append((time.monotonic(), len(wanted), len(found)))
            self._over.wait(0.01)

    def worst_hit_rate(self, began: float, seconds: float = 1.0) -> float:
        """Of any window so long."""
        windows: dict[int, list[tuple[int, int]]] = {}
        for at, asked, found in self.seen:
            if at >= began:
                windows.setdefault(int((at - began) / seconds), []).append((asked, found))
        return min(sum(f for _, f in one) / sum(a for a, _ in one) for one in windows.values())

    def expiries(self, url: str) -> list[int]:
        """When some of them end, in ms of Unix time."""
        names = [self._cache._namespaced_key(key, "quiet") for key in self._sample]
        with plain_cluster(url) as client:
            return [client.pexpiretime(name) for name in names]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("keys", [pytest.param(5_000, marks=pytest.mark.soak), 100_000])
def test_three_nodes_become_four_under_load_and_lose_nothing(
    keys: int,
) -> None:
    with four_nodes() as (cluster, _):
        move_under_load(cluster, keys)


def move_under_load(cluster: EmbeddedCluster, keys: int) -> None:
    # Given a full cluster under load, and a node more
    config = config_of(cluster)
    load = Load(SEED)
    with Cache(config) as quiet, Static(config, keys) as static, load.on(lambda: Cache(config)):
        wait_until(lambda: load.count["acks"] > 100)
        ends = static.expiries(cluster.url)
        plan = quiet.plan_rebalance()
        total = round(plan.keys / sum(share_moved(plan)))
        # When slots are moved
        began = time.monotonic()
        report = quiet.rebalance()
        seconds = time.monotonic() - began
        acks = load.count["acks"]
        wait_until(lambda: load.count["acks"] > acks + 100)
        # Then each node has its share, and little more than that has moved
        ideal = total * sum(max(0.0, one.before - one.target) for one in plan.nodes)
        found = quiet.get_many(static.values, "quiet")
        error = max(abs(a - b) for a, b in zip(ends, static.expiries(cluster.url), strict=True) if a > 0 < b)
        worst = static.worst_hit_rate(began)
        sys.stdout.write(
            f"{report.moved} slots in {seconds:.1f} s, {report.keys} of {total} keys (ideal {ideal:.0f}), "
            f"{report.cold} cold; {keys - len(found)} of {keys} lost; {len(load.stale)} stale; TTL error {error} ms; "
            f"worst second's hit rate {worst:.4f}; {dict(load.count)}\n"
        )
        assert (report.failed, report.complete) == (0, True)
        assert abs(report.keys - ideal) <= 0.1 * ideal
        assert max(abs(share - 0.25) for share in report.after.values()) <= 0.025
        # And nobody was served anything stale, was refused, or missed what was there; a machine that stood still for
        # longer than a source waits costs the hits of the slot that was on its way
        assert (load.stale, load.count["not acknowledged"], quiet.stats().unavailable) == ([], 0, 0)
        assert keys - len(found) <= report.cold * keys / 32
        assert worst >= 0.95 or report.cold
        assert error <= 1000
        assert_settled(quiet, cluster)


def share_moved(plan: RebalancePlan) -> list[float]:
    """What each node that gives slots away gives, as a share of all."""
    return [one.before - one.after for one in plan.nodes if one.before > one.after]
