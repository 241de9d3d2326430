"""Moving slots of a real cluster: their shards keep their hits, and nothing stale is served, whatever happens."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from random import Random
from types import GeneratorType
from typing import Any

import pytest
import redis

from stoker.cache import (
    Cache,
    CacheConfig,
    CacheUnavailable,
    ConfigError,
    RebalancePlan,
    RebalanceReport,
)
from stoker.cache import hand_over as handing
from stoker.cache.balance import SlotMove
from stoker.cache.bans import Control
from stoker.cache.hand_over import Move, Outcome, hand_over, settle
from stoker.cache.programs import Sleep
from stoker.cache.shards import Placement
from stoker.worker.embedded_cluster import EmbeddedCluster, add_primary, start_cluster
from stoker.worker.processes import Processes
from tests.cache.awaited import Awaited
from tests.cache.cluster_load import Load
from tests.cache.cluster_nodes import VALUES, admin, owner, shard_of, slots_of
from tests.cache.conftest import MakeCache
from tests.waiting import wait_until

SEED = int(os.environ.get("STOKER_TEST_SEED", "1"))


@pytest.fixture
def own_cluster() -> Iterator[tuple[EmbeddedCluster, Processes]]:
    """Three primaries with their slots, and a fourth without, which a test may harm."""
    with Processes() as processes:
        cluster = start_cluster(processes, node_timeout_s=1.0)
        yield add_primary(processes, cluster, node_timeout_s=1.0), processes


def config_of(cluster: EmbeddedCluster, **more: Any) -> CacheConfig:
    return CacheConfig(backend="redis", redis_url=cluster.url, cluster=True, namespace="bal", **more)


def address(cluster: EmbeddedCluster, node: int) -> str:
    return f"127.0.0.1:{cluster.primaries[node].port}"


def only(cluster: EmbeddedCluster, *empty: int) -> dict[str, float]:
    """Weights by which these nodes are emptied."""
    return {address(cluster, node): 0.0 for node in empty}


def assert_settled(cache: Cache, cluster: EmbeddedCluster) -> None:
    """Every control record accepts the server process that has it, and no other."""
    shards = cache._core.backend.shards  # type: ignore[attr-defined]
    with redis.RedisCluster.from_url(cluster.url) as client:
        client.nodes_manager.initialize()
        for shard in shards:
            control = Control.parse(client.get(shard.keys.ctl))
            assert control is not None
            node = client.get_node_from_key(shard.keys.ctl.decode())
            with redis.Redis(port=node.port, decode_responses=True) as server:
                run_id = server.info("server")["run_id"]
            assert [boot.decode() for boot in control.boots] == [run_id[:16]], shard.keys.ctl


@pytest.mark.parametrize("awaited", [False, True])
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
        with redis.RedisCluster.from_url(url) as client:
            return [client.pexpiretime(name) for name in names]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("keys", [pytest.param(5_000, marks=pytest.mark.soak), 100_000])
def test_three_nodes_become_four_under_load_and_lose_nothing(
    own_cluster: tuple[EmbeddedCluster, Processes], keys: int
) -> None:
    # Given a full cluster under load, and a node more
    cluster, _ = own_cluster
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


def act_at_a_look(
    cache: Cache, move: Move, which: int, act: Callable[[], object]
) -> Outcome | CacheUnavailable:
    """Hand a slot over, and do something right after one of the looks at how far it is."""
    program = hand_over(cache._core.on_cluster(), move)
    looks = 0
    try:
        effect = next(program)
        while True:
            answer = None
            if isinstance(effect, GeneratorType):
                answer = cache._run(effect)
            elif isinstance(effect, Sleep):
                time.sleep(effect.seconds)
            else:
                looks += 1
                if looks == which:
                    act()
            effect = program.send(answer)
    except CacheUnavailable as error:
        return error
    except StopIteration as ended:
        outcome: Outcome = ended.value
        return outcome


def a_move(cache: Cache, cluster: EmbeddedCluster, shard: int, source: int, target: int) -> Move:
    known = cache._run(cache._core.on_cluster().census())
    to = address(cluster, target)
    return Move(slots_of(cache)[shard], (shard,), address(cluster, source), to, known.id_of(to))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("which", [1, 2, 3])
@pytest.mark.parametrize("what", ["cancelled", "source killed", "target killed"])
def test_a_hand_over_that_comes_to_nothing_is_rolled_back_and_nothing_stale_is_served(
    what: str, which: int
) -> None:
    with Processes() as processes:
        # Given a cluster with replicas under load, and one primary more
        cluster = start_cluster(processes, replicas=True, node_timeout_s=1.0)
        cluster = add_primary(processes, cluster, node_timeout_s=1.0)
        config = config_of(cluster, timeout=0.5)
        load = Load(SEED)
        with Cache(config) as quiet, load.on(lambda: Cache(config)):
            assert quiet.set_many(VALUES, "quiet", ttl=600)
            wait_until(lambda: load.count["acks"] > 100)
            shard = shard_of(quiet, "user:1")
            source = owner(cluster, slots_of(quiet)[shard])
            move = a_move(quiet, cluster, shard, source, 3)

            # When something happens while the slot is on its way
            def act() -> None:
                if what == "cancelled":
                    with (
                        suppress(redis.ResponseError),
                        admin(cluster, source) as client,
                    ):  # it may have arrived
                        client.execute_command("CLUSTER CANCELSLOTMIGRATIONS")
                else:
                    victim = cluster.primaries[source if what == "source killed" else 3]
                    processes.stop([victim.child], 0)

            outcome = act_at_a_look(quiet, move, which, act)
            wait_until(lambda: settled(quiet), 30)
            acks = load.count["acks"]
            wait_until(lambda: load.count["acks"] > acks + 100)
            # Then the shards are where they were or at the target, with all that they had unless their node is gone
            found = quiet.get_many(VALUES, "quiet")
            sys.stdout.write(
                f"{what} at look {which}: {outcome}; {len(load.stale)} stale; {dict(load.count)}\n"
            )
            assert load.stale == []
            if what == "cancelled":
                assert found == VALUES
                assert_settled(quiet, cluster)


def settled(cache: Cache) -> bool:
    """Whether the records of all shards are good, and accept their owners alone."""
    shards = range(len(slots_of(cache)))
    try:
        return bool(cache._run(settle(cache._core.on_cluster(), shards)) == len(shards))
    except CacheUnavailable:
        return False


WORKER = """
import json, os, signal, sys, threading
from stoker.cache import Cache, CacheConfig
from stoker.cache.transport import Connection

url, last, cursor = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
ask, asked, turn = Connection.ask, 0, threading.Lock()

def ask_or_die(self, commands):
    global asked
    with turn:
        asked += 1
        if asked == last:
            os.kill(os.getpid(), signal.SIGKILL)
    return ask(self, commands)

with Cache(CacheConfig(backend="redis", redis_url=url, cluster=True, namespace="bal")) as cache:
    Connection.ask = ask_or_die
    for step in cache.rebalance_steps(cursor=cursor):
        if step.cursor["at"]:
            break
print(asked)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_worker_is_killed_before_each_command_of_a_hand_over_and_another_goes_on(
    own_cluster: tuple[EmbeddedCluster, Processes],
) -> None:
    cluster, _ = own_cluster
    config = config_of(cluster)
    load = Load(SEED)
    with Cache(config) as quiet, load.on(lambda: Cache(config), readers=1):
        quiet._core.backend.place(Placement(64))
        assert quiet.set_many(VALUES, "quiet", ttl=600)
        wait_until(lambda: load.count["acks"] > 50)
        shard = shard_of(quiet, "user:1")
        slot = slots_of(quiet)[shard]
        colds = killed = 0
        for last in itertools.count(1):
            # Given a job whose next move is of a slot that is much used
            source = owner(cluster, slot)
            target = (source + 1) % 4
            move = SlotMove(slot, (shard,), address(cluster, source), address(cluster, target), 0, 0)
            cursor = {"by": "keys", "at": 0, "moves": [asdict(move)], "report": asdict(RebalanceReport(1))}
            # When its worker is killed, at a later command each time
            worker = [sys.executable, "-c", WORKER, cluster.url, str(last), json.dumps(cursor)]
            done = subprocess.run(worker, timeout=60, check=False, capture_output=True, text=True)
            assert done.returncode in (0, -signal.SIGKILL), done.stderr
            # Then another one goes on from the cursor
            *_, step = quiet.rebalance_steps(cursor=cursor)
            assert (step.report.moved, step.report.failed) == (1, 0)
            assert owner(cluster, slot) == target
            assert_settled(quiet, cluster)
            assert load.stale == []
            killed += done.returncode != 0
            colds += step.report.cold
            if done.returncode == 0:
                break
        sys.stdout.write(f"killed before each of {killed} commands; {colds} began cold; {dict(load.count)}\n")
        assert killed > 10
        assert load.count["not acknowledged"] == 0
