"""Copies of what is on a cluster: histories of nodes, a mover, processes that keep copies, and their channels."""

import itertools
import sys
from collections.abc import Callable

import pytest

from stoker.cache.near_shards import NearShards
from stoker.cache.near_stream import Stream
from tests.cache.cluster_world import Stale
from tests.cache.histories import SEED, assert_missed
from tests.cache.near_world import NearWorld, in_near_world

STEPS = 1500
_numbers = itertools.count()


def play(url: str, namespace: str, seed: int, monkeypatch: pytest.MonkeyPatch, steps: int = STEPS) -> int:
    """How many reads were served of copies."""
    world = NearWorld(url, f"{namespace}.{next(_numbers)}", seed)
    in_near_world(monkeypatch, world)
    try:
        world.play(steps)
    except Stale as stale:
        raise Stale(f"seed {seed}: {stale}") from stale
    finally:
        world.end()
    return world.served


@pytest.mark.parametrize(
    "histories", [3, pytest.param(60, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_no_copy_lags_by_more_than_the_bound_whatever_happens_to_slots_and_channels(
    cache_server: str, namespace: str, monkeypatch: pytest.MonkeyPatch, histories: int
) -> None:
    steps = STEPS if histories > 3 else STEPS // 3
    served = sum(play(cache_server, namespace, SEED + n, monkeypatch, steps) for n in range(histories))
    sys.stdout.write(f"seeds {SEED} to {SEED + histories - 1}: {served} reads served of copies\n")
    assert served > histories


def nothing_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what has changed."""
    monkeypatch.setattr(Stream, "changed", lambda *_: None)


def no_records_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the node that a shard's copies came from."""
    monkeypatch.setattr(Stream, "doubted", lambda _: None)


def no_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy is served for as long as nothing is heard."""
    monkeypatch.setattr(Stream, "vouched", lambda *_: float("inf"))


def own_changes_not_minded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the server tells of them."""
    monkeypatch.setattr(NearShards, "forget", lambda *_: None)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("remove", [nothing_heard, no_records_looked_for, no_bound, own_changes_not_minded])
def test_without_each_of_its_guards_some_copy_does(
    cache_server: str,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    remove: Callable[[pytest.MonkeyPatch], None],
) -> None:
    remove(monkeypatch)
    assert_missed(lambda seed: play(cache_server, namespace, seed, monkeypatch))
