"""Changing where keys live: histories of processes that race the change, killed anywhere in it."""

import itertools
import json
import sys
from collections.abc import Callable

import pytest

from stoker.cache import CacheError, cluster_map
from stoker.cache.keys import ShardKeys
from stoker.cache.reshard import Change
from stoker.cache.shards import Agreement, Placement, fingerprint, parsed
from tests.cache.cluster_world import SHARDS, Stale, narrowed
from tests.cache.histories import SEED, assert_missed
from tests.cache.reshard_world import TENANT, OnOneServer, Resharding
from tests.cache.test_cluster_map import no_second_look

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


@pytest.mark.parametrize("kind", WORLDS)
def test_a_change_that_was_killed_at_any_step_is_completed_or_has_not_begun(
    kind: type[Resharding], cache_server: str, namespace: str
) -> None:
    step = 0
    while not _killed_at(step, kind(cache_server, f"{namespace}.{step}", SEED)):
        step += 1
    assert step > 1  # it took that many commands


def _killed_at(step: int, world: Resharding) -> bool:
    """Kill the change before a command of that number; whether it was over by then."""
    reader, other, changer = (world.backend(Placement(default=SHARDS[0])) for _ in range(3))
    try:
        for backend, name in itertools.product((reader, other), world.names):
            world.finish(world.read(backend, name))
        change = world.drive(changer.change(Change(SHARDS[1], {TENANT: 1})))
        over = sum(1 for _ in itertools.islice(change, step)) < step
        change.close()
        # Whoever comes next reads what is true, and what it invalidates, no one reads any more
        for backend, name in itertools.product((other, reader), world.names):
            world.finish(world.invalidate(backend, name))
            world.finish(world.read(backend, name))
            world.finish(world.read(reader if backend is other else other, name))
        assert reader.placement.facts() == other.placement.facts()
        found = reader.placement.num_shards, dict(reader.placement.pins)
        assert found in ((SHARDS[0], {}), (SHARDS[1], {TENANT: 1}))
        # And the change can be made once more
        again = world.finish(world.drive(changer.change(Change(SHARDS[1], {TENANT: 1}))))
        assert (again.placement.num_shards, dict(again.placement.pins)) == (SHARDS[1], {TENANT: 1})
        hits = world.hits
        for backend, name in itertools.product((reader, other), world.names):
            world.finish(world.read(backend, name))
        assert world.hits >= hits + len(world.names)
    finally:
        world.end()
    return over


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
            plain = {name: value for name, value in theirs.items() if name not in ("open", "boot")} | {
                "life": ""
            }
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
    assert_missed(lambda seed: play(kind, cache_server, namespace, seed))
