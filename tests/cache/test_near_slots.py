"""Copies of what is on a cluster end where their slot goes elsewhere, and what vouches for that can be taken away."""

import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from random import Random
from types import GeneratorType
from typing import Any

import pytest

from stoker.cache import Cache, CacheSharder, CacheShardingConfig, InvalidationNotAcknowledged
from stoker.cache.copies import ABSENT
from stoker.cache.hand_over import Move as Given
from stoker.cache.hand_over import hand_over
from stoker.cache.near_channel import Conversation
from stoker.cache.near_stream import Stream
from stoker.cache.programs import Sleep
from stoker.worker.embedded_cluster import EmbeddedCluster
from tests.cache.cluster_nodes import Move, migrate, move_by_keys, owner, shard_of, slots_of
from tests.cache.conftest import MakeCache
from tests.cache.copied import copied
from tests.cache.rebalancing import address
from tests.waiting import wait_until

KEYS = [f"k{n}" for n in range(40)]
SEED = int(os.environ.get("STOKER_TEST_SEED", "1"))


@pytest.fixture
def reader(make_clustered: MakeCache) -> Cache:
    """One that keeps copies."""
    return make_clustered(near_size=100)


@pytest.fixture
def writer(make_clustered: MakeCache) -> Cache:
    """Another process, as it were."""
    return make_clustered()


class Untold:
    """While the block runs servers tell nobody what they give away. Valkey does, but nothing rests on it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        changed, self._silent = Stream.changed, False

        def heard(stream: Stream, names: Any) -> None:
            if not self._silent:
                changed(stream, names)

        monkeypatch.setattr(Stream, "changed", heard)

    def __enter__(self) -> None:
        self._silent = True

    def __exit__(self, *_: object) -> None:
        self._silent = False


@pytest.fixture
def untold(monkeypatch: pytest.MonkeyPatch) -> Untold:
    return Untold(monkeypatch)


@pytest.mark.parametrize(
    ("move", "guarded"),
    [
        (migrate, True),
        (migrate, False),
        (move_by_keys, True),
        pytest.param(move_by_keys, False, marks=pytest.mark.slow),
    ],
)
def test_copies_end_where_their_slot_goes_elsewhere(
    reader: Cache,
    writer: Cache,
    cache_cluster: EmbeddedCluster,
    monkeypatch: pytest.MonkeyPatch,
    untold: Untold,
    move: Move,
    guarded: bool,
) -> None:
    if not guarded:
        monkeypatch.setattr(Stream, "doubted", lambda _: None)
    writer.set("k", "old")
    copied(reader, "k")
    slot = slots_of(reader)[shard_of(reader, "k")]
    with Looking(reader, "k") as looking, untold:
        move(cache_cluster, slot, (owner(cache_cluster, slot) + 1) % 3)
        until_acknowledged(lambda: writer.set("k", "new", barrier=True))
        if not guarded:
            wait_until(lambda: looking.get() == "old")
    if guarded:
        assert reader.get("k") in (None, "new")
        copied(reader, "k")
        assert reader.get("k") == "new"


@pytest.mark.parametrize(
    ("guarded", "rounds"),
    [(True, 4), *(pytest.param(guarded, 40, marks=pytest.mark.slow) for guarded in (True, False))],
)
def test_nothing_stale_is_served_of_copies_whatever_slots_do(
    make_clustered: MakeCache,
    cache_cluster: EmbeddedCluster,
    monkeypatch: pytest.MonkeyPatch,
    untold: Untold,
    guarded: bool,
    rounds: int,
) -> None:
    """In an order of the seed: slots go, by hand and as `stoker rebalance` has them go, and what is in them changes."""
    if not guarded:
        monkeypatch.setattr(Stream, "doubted", lambda _: None)
    chance = Random(f"{SEED} {guarded}")
    reader, writer = make_clustered(near_size=100), make_clustered()
    CacheSharder(writer, CacheShardingConfig(enabled=True, num_shards=4))
    truth = dict.fromkeys(KEYS[:8], 0)
    stale = 0
    for _ in range(rounds):
        key = chance.choice(list(truth))
        writer.get_or_load(key, partial(truth.get, key))
        copied(reader, key)
        with Looking(reader, key) as looking:
            with untold:
                elsewhere(writer, cache_cluster, shard_of(writer, key), chance)
            truth[key] += 1
            change = chance.choice([writer.delete, writer.invalidate_pattern])
            until_acknowledged(partial(change, key, barrier=True))
            found = looking.get()
        stale += isinstance(found, int) and found < truth[key]
        stale += reader.get_or_load(key, partial(truth.get, key)) < truth[key]
    sys.stdout.write(f"seed {SEED}: {stale} of {2 * rounds} reads stale\n")
    assert (stale == 0) is guarded


def elsewhere(cache: Cache, cluster: EmbeddedCluster, shard: int, chance: Random) -> None:
    """Have the shard's slot at another node, as a rule."""
    slot = slots_of(cache)[shard]
    to = (owner(cluster, slot) + chance.choice([1, 2])) % 3
    how = chance.choice(["not", "at once", "by keys", "given"])
    if how == "given":
        given(cache, cluster, shard, to)
    elif how != "not":
        (migrate if how == "at once" else move_by_keys)(cluster, slot, to)


def until_acknowledged(change: Callable[[], object]) -> None:
    """Again, where a slot is just changing hands."""

    def done() -> bool:
        try:
            change()
        except InvalidationNotAcknowledged:
            return False
        return True

    wait_until(done)


class Looking:
    """What a cache serves of copies, looked at all the time, as by a busy process that asks the server nothing."""

    def __init__(self, cache: Cache, key: str) -> None:
        near = cache._core.near
        assert near is not None
        self._near = near
        self._key = key
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def get(self) -> object:
        value = self._near.get(self._key, None, None)
        return None if value is ABSENT else value

    def _look(self) -> None:
        while not self._over.wait(0.005):
            self.get()

    def __enter__(self) -> "Looking":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


@pytest.mark.parametrize("guarded", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_copies_end_though_their_slot_went_and_came_back_while_nothing_was_heard(
    reader: Cache,
    writer: Cache,
    cache_cluster: EmbeddedCluster,
    monkeypatch: pytest.MonkeyPatch,
    untold: Untold,
    guarded: bool,
) -> None:
    """As where the reader's process was stopped: the node has the slot again, with all its hits."""
    if not guarded:
        monkeypatch.setattr(Stream, "life_of", lambda *_: (b"", 0))
    writer.set("k", "old")
    writer.set("l", "old")
    copied(reader, "k")
    shard = shard_of(reader, "k")
    with Looking(reader, "k") as looking, untold:
        with Stalled(monkeypatch):
            home = owner(cache_cluster, slots_of(writer)[shard])
            warm = given(writer, cache_cluster, shard, (home + 1) % 3)
            until_acknowledged(lambda: writer.set("k", "new", barrier=True))
            warm = given(writer, cache_cluster, shard, home) and warm
            assert looking.get() is None
        reader._run(reader._core.on_cluster().views())
        wait_until(lambda: heard(reader, "k"))
        assert looking.get() != "old" or not guarded
        if not guarded:
            assert warm, "the machine was too busy to hand a slot over in time"
            wait_until(lambda: looking.get() == "old")


def heard(cache: Cache, key: str) -> bool:
    """Whether the shard's record is known by its stream as the process knows it, and vouched for."""
    near, shard = cache._core.near, cache._core.on_cluster().shards[shard_of(cache, key)]
    assert near is not None
    tracked = near._shards.of(shard)
    assert tracked is not None
    return tracked.ctl == shard.view.control.raw and tracked.until > time.clock_gettime(time.CLOCK_BOOTTIME)


class Stalled:
    """Channels take in nothing of what has come while the block runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        receive, self._free = Conversation.receive, threading.Event()
        self._free.set()

        def waiting(conversation: Conversation) -> None:
            self._free.wait(20)
            receive(conversation)

        monkeypatch.setattr(Conversation, "receive", waiting)

    def __enter__(self) -> None:
        self._free.clear()

    def __exit__(self, *_: object) -> None:
        self._free.set()


def given(cache: Cache, cluster: EmbeddedCluster, shard: int, to: int) -> bool:
    """Hand the shard's slot over, as `stoker rebalance` does it; tells whether it kept its hits."""
    slot = slots_of(cache)[shard]
    name = cache._run(cache._core.on_cluster().census()).id_of(address(cluster, to))
    assert name is not None
    move = Given(slot, (shard,), address(cluster, owner(cluster, slot)), address(cluster, to), name)
    program = hand_over(cache._core.on_cluster().space, move)
    effect: Any = next(program)
    try:
        while True:
            if isinstance(effect, GeneratorType):
                effect = program.send(cache._run(effect))
            else:
                time.sleep(effect.seconds if isinstance(effect, Sleep) else 0)
                effect = program.send(None)
    except StopIteration as ended:
        return bool(ended.value.moved and ended.value.warm)
