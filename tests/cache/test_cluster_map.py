"""The map on a cluster: histories of processes that would place keys differently, interleaved command by command."""

import itertools
import sys
from collections.abc import Callable

import pytest

from stoker.cache import cluster_map
from stoker.cache.cluster_map import Charter
from stoker.cache.wire import asking_nobody
from tests.cache.cluster_world import Stale, World, narrowed
from tests.cache.histories import SEED, assert_missed

STEPS = 1000
_numbers = itertools.count()


def play(url: str, namespace: str, seed: int) -> World:
    world = World(url, f"{namespace}.{next(_numbers)}", seed)
    try:
        world.play(STEPS)
    finally:
        world.end()
    return world


def play_all(url: str, namespace: str, count: int) -> None:
    hits = acks = refused = 0
    for seed in range(SEED, SEED + count):
        try:
            world = play(url, namespace, seed)
        except Stale as stale:
            raise AssertionError(f"seed {seed}: {stale}") from stale
        hits, acks, refused = hits + world.hits, acks + world.acks, refused + world.refused
    sys.stdout.write(f"seeds {SEED} to {SEED + count - 1}: {hits} hits, {acks} acks, {refused} refused\n")
    assert min(hits, acks, refused) > 5 * count


def test_nothing_stale_is_served_whichever_map_comes_goes_and_returns(
    cache_server: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrowed(monkeypatch)
    play_all(cache_server, namespace, 3)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nothing_stale_is_served_in_many_more_histories(
    cache_server: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrowed(monkeypatch)
    play_all(cache_server, namespace, 100)


def no_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Admit drafts without looking at the map once more."""
    monkeypatch.setattr(cluster_map, "still_rules", asking_nobody(lambda *_: True))


def no_look_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a map that has come from another process rule without looking whether another has ruled since."""
    monkeypatch.setattr(cluster_map, "others", asking_nobody(lambda *_: []))


def no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Open a map without deleting what was stored under others."""
    monkeypatch.setattr(cluster_map, "end_all", asking_nobody(lambda *_: None))


def any_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Go by a map whichever server process has it."""
    monkeypatch.setattr(Charter, "native", property(lambda _: True))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("remove", [no_second_look, no_look_for_others, no_end, any_server])
def test_without_each_of_its_guards_something_stale_is_served(
    cache_server: str,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    remove: Callable[[pytest.MonkeyPatch], None],
) -> None:
    narrowed(monkeypatch)
    remove(monkeypatch)
    assert_missed(lambda seed: play(cache_server, namespace, seed))
