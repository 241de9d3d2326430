"""Changing where keys live: histories of processes that race the change, killed anywhere in it."""

import itertools
import json
import os
import sys
from collections.abc import Callable

import pytest

from stoker.cache import CacheError, cluster_map
from stoker.cache.keys import ShardKeys
from stoker.cache.shards import Agreement, fingerprint, parsed
from tests.cache.cluster_world import Stale, narrowed
from tests.cache.test_cluster_map import no_second_look
from tests.cache.reshard_world import OnOneServer, Resharding

SEED = int(os.environ.get("STOKER_TEST_SEED", "1"))
STEPS = 1000
_numbers = itertools.count()
WORLDS = [Resharding, OnOneServer]


@pytest.fixture(autouse=True)
def _narrowed(monkeypatch: pytest.MonkeyPatch) -> None:
    narrowed(monkeypatch)


def play(kind: type[Resharding], url: str, namespace: str, seed: int) -> Resharding:
    world = kind(url, f"{namespace}.{next(_numbers)}", seed)
    try:
        world.play(STEPS)
    finally:
        world.end()
    return world


def play_all(kind: type[Resharding], url: str, namespace: str, count: int) -> None:
    hits = acks = changes = 0
    for seed in range(SEED, SEED + count):
        try:
            world = play(kind, url, namespace, seed)
        except Stale as stale:
            raise AssertionError(f"seed {seed}: {stale}") from stale
        hits, acks, changes = hits + world.hits, acks + world.acks, changes + world.changes
    sys.stdout.write(f"seeds {SEED} to {SEED + count - 1}: {hits} hits, {acks} acks, {changes} changes\n")
    assert min(hits, acks, changes) > 2 * count


@pytest.mark.parametrize("kind", WORLDS)
def test_nothing_stale_is_served_while_keys_come_to_live_elsewhere(
    kind: type[Resharding], cache_server: str, namespace: str
) -> None:
    play_all(kind, cache_server, namespace, 3)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", WORLDS)
def test_nothing_stale_is_served_in_many_more_changes(
    kind: type[Resharding], cache_server: str, namespace: str
) -> None:
    play_all(kind, cache_server, namespace, 100)


def on_in_the_old_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Go by the new map without asking where keys live now."""
    accept = Agreement.accept

    def accepted(self: Agreement, stored: bytes) -> None:
        try:
            accept(self, stored)
        except CacheError:
            theirs = parsed(stored)
            plain = {name: value for name, value in theirs.items() if name not in ("open", "boot")} | {"life": ""}
            digest = fingerprint(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode())
            self.ruling = stored, digest + theirs["life"].encode()

    monkeypatch.setattr(Agreement, "accept", accepted)


def open_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a cluster, let records begin under the new map while those of the old one stand."""
    begun = cluster_map._begun
    monkeypatch.setattr(cluster_map, "_begun", lambda *args: begun(*args) | {"open": True})


def no_end_on_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave what was stored under the old map."""
    monkeypatch.setattr(ShardKeys, "every_control", lambda *_: ())


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("kind", "remove"),
    [
        (Resharding, on_in_the_old_shards),
        (OnOneServer, on_in_the_old_shards),
        (Resharding, open_at_once),
        (Resharding, no_second_look),
        (OnOneServer, no_end_on_a_server),
    ],
)
def test_without_each_of_its_guards_something_stale_is_served(
    kind: type[Resharding],
    cache_server: str,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    remove: Callable[[pytest.MonkeyPatch], None],
) -> None:
    remove(monkeypatch)
    for seed in range(SEED, SEED + 300):
        try:
            play(kind, cache_server, namespace, seed)
        except Stale as stale:
            sys.stdout.write(f"seed {seed}: {stale}\n")
            return
    raise AssertionError("the guard is not missed")
