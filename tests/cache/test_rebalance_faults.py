"""Hand-overs on a real cluster that come to nothing: workers, sources and targets die, moves are cancelled."""

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict

import pytest
import redis

from stoker.cache import Cache, CacheUnavailable, RebalanceReport
from stoker.cache.balance import SlotMove
from stoker.cache.hand_over import Move, Outcome, hand_over, settle
from stoker.cache.rebalance import placed
from stoker.cache.shards import Placement
from stoker.worker.embedded_cluster import EmbeddedCluster
from tests.cache.cluster_load import Load
from tests.cache.cluster_nodes import VALUES, admin, owner, shard_of, slots_of
from tests.cache.rebalancing import address, assert_settled, config_of, four_nodes, move_of, perform
from tests.waiting import wait_until

SEED = int(os.environ.get("STOKER_TEST_SEED", "1"))


def act_at_a_look(
    cache: Cache, move: Move, which: int, act: Callable[[], object]
) -> Outcome | CacheUnavailable:
    """Hand a slot over, and do something right after one of the looks at how far it is."""
    looks = itertools.count(1)
    try:
        program = hand_over(cache._core.on_cluster().space, move)
        return perform(cache, program, lambda: act() if next(looks) == which else None)
    except CacheUnavailable as error:
        return error


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("which", [1, 2, 3])
@pytest.mark.parametrize("what", ["cancelled", "source killed", "target killed"])
def test_a_hand_over_that_comes_to_nothing_is_rolled_back_and_nothing_stale_is_served(
    what: str, which: int
) -> None:
    with four_nodes(replicas=True) as (cluster, processes):
        # Given a cluster with replicas under load, and one primary more
        config = config_of(cluster, timeout=0.5)
        load = Load(SEED)
        with Cache(config_of(cluster)) as patient:  # to open a namespace takes a busy machine some time
            assert patient.set_many(VALUES, "quiet", ttl=600)
        with Cache(config) as quiet, load.on(lambda: Cache(config)):
            wait_until(lambda: load.count["acks"] > 100)
            shard = shard_of(quiet, "user:1")
            source = owner(cluster, slots_of(quiet)[shard])
            move = move_of(quiet, cluster, shard, source, 3)

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
            if (
                what != "source killed"
            ):  # the slot's own shard may begin cold at a target that was let in before
                lost = {shard_of(quiet, key, "quiet") for key in VALUES.keys() - found.keys()}
                assert lost <= (
                    {shard} if what == "target killed" or owner(cluster, move.slot) == 3 else set()
                )
            if what == "cancelled":
                assert_settled(quiet, cluster)


def settled(cache: Cache) -> bool:
    """Whether the records of all shards are good, and accept their owners alone."""
    shards = range(len(slots_of(cache)))
    try:
        return bool(cache._run(settle(cache._core.on_cluster().space, shards)) == len(shards))
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
@pytest.mark.parametrize("warm", [True, False])
def test_a_worker_is_killed_before_each_command_of_a_move_and_another_goes_on(warm: bool) -> None:
    with four_nodes() as (cluster, _):
        kill_before_each_command(cluster, warm)


def kill_before_each_command(cluster: EmbeddedCluster, warm: bool) -> None:
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
            report = asdict(RebalanceReport(1))
            cursor = {"by": "keys", "warm": warm, "at": 0, "moves": [asdict(move)], "report": report}
            cursor["placed"] = placed(quiet._core.on_cluster().space)
            # When its worker is killed, at a later command each time
            worker = [sys.executable, "-c", WORKER, cluster.url, str(last), json.dumps(cursor)]
            done = subprocess.run(worker, timeout=110, check=False, capture_output=True, text=True)
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
