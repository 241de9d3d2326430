"""Handing slots over: histories of nodes, a mover and its clients, interleaved command by command."""

import itertools
import os
import sys
from collections.abc import Callable

import pytest

from stoker.cache import cluster, cold_move, hand_over, scripts
from stoker.cache.wire import asking_nobody
from tests.cache.cluster_world import Stale
from tests.cache.hand_over_world import HandOverWorld, in_this_world

SEED = int(os.environ.get("STOKER_TEST_SEED", "1"))
STEPS = 1500
_numbers = itertools.count()
ACCEPT = scripts.Script("accept", scripts.EXPECT.source.replace(b"expected(ARGV[3])", b"ARGV[3]"))
assert ACCEPT.source != scripts.EXPECT.source


def play(
    url: str,
    namespace: str,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
    remove: Callable[[pytest.MonkeyPatch], None] = lambda _: None,
) -> HandOverWorld:
    world = HandOverWorld(url, f"{namespace}.{next(_numbers)}", seed)
    in_this_world(monkeypatch, world)
    remove(monkeypatch)
    try:
        world.play(STEPS)
    finally:
        world.end()
    return world


def play_all(url: str, namespace: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    hits = acks = warm = cold = 0
    for seed in range(SEED, SEED + count):
        try:
            world = play(url, namespace, seed, monkeypatch)
        except Stale as stale:
            raise AssertionError(f"seed {seed}: {stale}") from stale
        hits, acks, warm, cold = hits + world.hits, acks + world.acks, warm + world.warm, cold + world.cold
    sys.stdout.write(
        f"seeds {SEED} to {SEED + count - 1}: {hits} hits, {acks} acks, {warm} warm, {cold} cold\n"
    )
    assert min(hits, acks) > 5 * count


def test_nothing_stale_is_served_whatever_happens_to_a_hand_over(
    cache_server: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    play_all(cache_server, namespace, 2, monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nothing_stale_is_served_in_many_more_histories(
    cache_server: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    play_all(cache_server, namespace, 60, monkeypatch)


def accepted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the target answer for the record from the beginning, whatever becomes of the migration."""
    monkeypatch.setattr(scripts, "EXPECT", ACCEPT)


def vouched_for_however_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Believe a source that it gave its slot away, though it may have gone on with writes before."""
    monkeypatch.setattr(hand_over, "in_time", lambda _: True)


def nobody_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin cold at once at a target that has taken over, while the source may not have heard of it."""
    monkeypatch.setattr(cluster, "LONGEST_RESTS", 0)


def not_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a source go on while its slot is given to another without its entries."""
    monkeypatch.setattr(cold_move, "freeze", asking_nobody(lambda *_: True))


GUARDS = [accepted_at_once, vouched_for_however_late, nobody_waited_for, not_frozen]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("remove", GUARDS)
def test_without_each_of_its_guards_something_stale_is_served(
    cache_server: str,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    remove: Callable[[pytest.MonkeyPatch], None],
) -> None:
    for seed in range(SEED, SEED + 300):
        try:
            play(cache_server, namespace, seed, monkeypatch, remove)
        except Stale as stale:
            sys.stdout.write(f"seed {seed}: {stale}\n")
            return
    raise AssertionError("the guard is not missed")
