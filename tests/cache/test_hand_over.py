"""Handing slots over: histories of nodes, a mover and its clients, interleaved command by command."""

import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from types import GeneratorType
from typing import Any

import pytest

from stoker.cache import ConfigError, cluster, cold_move, hand_over, scripts
from stoker.cache.backends.cluster import ClusterBackend
from stoker.cache.cluster import Router
from stoker.cache.dialogue import UNKNOWN_SERVER
from stoker.cache.hand_over import Move
from stoker.cache.keys import ShardKeys
from stoker.cache.programs import Sleep
from stoker.cache.wire import Call, asking_nobody
from tests.cache.cluster_world import NODES, Stale
from tests.cache.hand_over_nodes import HEARD_WITHIN, KEYS, Steps, address
from tests.cache.hand_over_world import HandOverWorld, in_this_world
from tests.cache.histories import SEED, assert_missed

STEPS = 1500
NOT_YET = object()
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
    monkeypatch.setattr(cluster, "PATIENCE_S", 0)


def begun_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a target answer as soon as it has a slot without its entries, though the source may not have heard of it."""
    monkeypatch.setattr(cold_move, "expecting", lambda raw, _: raw)


GUARDS = [accepted_at_once, vouched_for_however_late, nobody_waited_for, begun_at_once]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("remove", GUARDS)
def test_without_each_of_its_guards_something_stale_is_served(
    cache_server: str,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    remove: Callable[[pytest.MonkeyPatch], None],
) -> None:
    assert_missed(lambda seed: play(cache_server, namespace, seed, monkeypatch, remove))


@pytest.fixture
def world(cache_server: str, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[HandOverWorld]:
    """One in which nothing happens but what the test does."""
    made = HandOverWorld(cache_server, namespace, SEED)
    in_this_world(monkeypatch, made)
    yield made
    made.end()


@pytest.mark.parametrize("guarded", [True, False])
def test_no_expectation_is_taken_back_while_a_slot_is_on_its_way(
    world: HandOverWorld, monkeypatch: pytest.MonkeyPatch, guarded: bool
) -> None:
    """The mover dies after its first look, the next one settles, and then the target takes over."""
    if not guarded:
        monkeypatch.setattr(hand_over, "under_way", asking_nobody(lambda *_: False))
    there, here, settling = [(world._backend(), Router()) for _ in range(3)]
    key = KEYS[0]
    number, source, move = a_move(world, there[0], key)
    for client in (there, here, there, here):
        done_within(world, world.read(*client, key))
    program = hand_over.hand_over(there[0].space, move)
    until_a_look(world, program)
    program.close()
    [migration] = world.migrations
    # When another settles while the slot is still on its way
    done_within(world, world.drive(settling[1], world.settle(settling[0])))
    assert (b",>" in world.clients[source].get(ShardKeys(world.namespace, number).ctl)) is guarded
    # and the target takes over, of which the source has not heard
    world.takes_over(migration)
    there[1].layout = world.layout()
    told = done_within(world, world.invalidate(*there, key), HEARD_WITHIN)
    # Then whoever invalidates at the target waits for that, as the source still answers readers
    assert (told is NOT_YET) is guarded
    with nullcontext() if guarded else pytest.raises(Stale):
        done_within(world, world.read(*here, key))


@pytest.mark.parametrize("guarded", [True, False])
def test_a_target_without_entries_answers_when_the_source_has_heard(
    world: HandOverWorld, monkeypatch: pytest.MonkeyPatch, guarded: bool
) -> None:
    """However long the mover is held up before each of its steps."""
    if not guarded:
        begun_at_once(monkeypatch)
    (there, here), key = [(world._backend(), Router()) for _ in range(2)], KEYS[0]
    _, source, move = a_move(world, there[0], key)
    done_within(world, world.read(*there, key))
    program = cold_move.cold_move(there[0].space, move)
    effect = next(program)
    while world.owners[move.slot] == source:
        assert isinstance(effect, GeneratorType)
        done_within(world, world.sleep(3 * cluster.PATIENCE_S))
        done_within(world, world.read(*here, key))
        effect = program.send(done_within(world, world.drive(Router(), effect)))
    # When the target has taken the slot, of which the source has not heard, and somebody invalidates there
    done_within(world, world.read(*here, key))
    there[1].layout = world.layout()
    invalidation = world.invalidate(*there, key)
    told = done_within(world, invalidation, HEARD_WITHIN)
    # Then he waits for that, as the source still answers
    assert (told is NOT_YET) is guarded
    with nullcontext() if guarded else pytest.raises(Stale):
        done_within(world, world.read(*here, key))
    if not guarded:
        return
    # And when the source has heard he waits no longer
    world.migrations[0].news = 1.0
    world.go_on()
    assert done_to_its_end(world, program, effect).moved
    assert done_within(world, invalidation, 20) is None
    done_within(world, world.read(*here, key))


def test_who_waits_for_a_mover_that_has_died_begins_cold(world: HandOverWorld) -> None:
    """When the source has surely heard."""
    (there, router), key = (world._backend(), Router()), KEYS[0]
    _, source, move = a_move(world, there, key)
    program = cold_move.cold_move(there.space, move)
    effect = next(program)
    while world.owners[move.slot] == source:
        assert isinstance(effect, GeneratorType)
        effect = program.send(done_within(world, world.drive(router, effect)))
    program.close()
    router.layout = world.layout()
    began = world.monotonic()
    assert done_within(world, world.invalidate(there, router, key)) is None
    assert cluster.PATIENCE_S < world.monotonic() - began < 2 * cluster.PATIENCE_S


def test_a_move_that_is_cancelled_leaves_nobody_expected(world: HandOverWorld) -> None:
    """Not by whom it was begun either, whose view of the record is from before."""
    mover, router = world._backend(), Router()
    number, source, move = a_move(world, mover, KEYS[0])
    program = hand_over.hand_over(mover.space, move)
    until_a_look(world, program)
    program.close()
    name = ShardKeys(world.namespace, number).ctl
    assert b",>" in world.clients[source].get(name)
    done_within(world, world.drive(router, hand_over.cancel(move)))
    done_within(world, world.drive(router, hand_over.settle(mover.space, move.shards)))
    assert b",>" not in world.clients[source].get(name)


def test_who_waits_for_a_hand_over_asks_for_the_record_alone(
    world: HandOverWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a target that has taken over, and a mover that has died
    mover, (reader, router) = world._backend(), (world._backend(), Router())
    number, _, move = a_move(world, mover, KEYS[0])
    until_a_look(world, program := hand_over.hand_over(mover.space, move))
    program.close()
    world.takes_over(world.migrations[0])
    asked: list[Any] = []
    answer = world._answer

    def noting(node: int, batch: Any) -> list[Any]:
        asked.extend(batch)
        return answer(node, batch)

    monkeypatch.setattr(world, "_answer", noting)
    # When somebody reads there, and waits until he gives up
    began = world.monotonic()
    done_within(world, world.read(reader, router, KEYS[0]))
    assert world.monotonic() - began > cluster.PATIENCE_S
    # Then he has looked at the map when he met the record and when he began another, and not in between
    keys = ShardKeys(world.namespace, number)
    assert asked.count(("GET", keys.map)) <= 4
    assert asked.count(("GET", keys.ctl)) > 8
    assert sum(isinstance(one, Call) for one in asked) < 8


def test_a_target_that_has_the_source_wait_for_too_long_is_not_waited_for(
    world: HandOverWorld,
) -> None:
    mover = world._backend()
    _, _, move = a_move(world, mover, KEYS[0])
    program = hand_over.hand_over(mover.space, move)
    until_a_look(world, program)
    [migration] = world.migrations
    migration.state = "failover-paused"
    began = world.monotonic()
    outcome = to_its_end(world, program)
    assert (outcome.moved, outcome.warm) == (False, True)
    assert migration.state == "cancelled"
    assert hand_over.LONGEST_S["failover-paused"] < world.monotonic() - began < hand_over.PAUSE_S


def test_a_key_of_others_keeps_its_slot_where_it_is(world: HandOverWorld) -> None:
    mover = world._backend()
    number, source, move = a_move(world, mover, KEYS[0])
    stranger = f"theirs:{ShardKeys(world.namespace, number).tag}"
    world.clients[source].set(stranger, 1, ex=60)
    outcome = to_its_end(world, cold_move.cold_move(mover.space, move))
    assert (outcome.moved, outcome.warm) == (False, True)
    assert "keys of others, such as 'theirs:" in outcome.reason
    assert world.owners[move.slot] == source
    assert world.clients[source].delete(stranger) == 1


def test_no_slot_is_handed_over_to_a_server_that_cannot_be_told_from_others(
    world: HandOverWorld,
) -> None:
    mover = world._backend()
    _, source, move = a_move(world, mover, KEYS[0])
    world.nodes[(source + 1) % NODES].server = UNKNOWN_SERVER
    with pytest.raises(ConfigError, match="told apart"):
        until_a_look(world, hand_over.hand_over(mover.space, move))
    assert world.migrations == []


def a_move(world: HandOverWorld, backend: ClusterBackend, key: str) -> tuple[int, int, Move]:
    """The key's shard, its node, and a move of its slot to another."""
    number = backend.space.number_of(None, key)
    slot = world.slots[number]
    source = world.owners[slot]
    target = (source + 1) % NODES
    return number, source, Move(slot, (number,), address(source), address(target), str(target))


def until_a_look(world: HandOverWorld, program: hand_over.HandOver) -> None:
    """Go on until the program gives its caller a chance to say that it does. Raises StopIteration at its end."""
    effect = next(program)
    while effect is not None:
        if isinstance(effect, Sleep):
            steps = world.sleep(effect.seconds)
        else:
            assert isinstance(effect, GeneratorType)
            steps = world.drive(Router(), effect)
        effect = program.send(done_within(world, steps))


def done_to_its_end(world: HandOverWorld, program: hand_over.HandOver, effect: Any) -> hand_over.Outcome:
    """Go on from this effect, all steps of which are taken at once."""
    try:
        while True:
            effect = program.send(done_within(world, world.drive(Router(), effect)))
    except StopIteration as end:
        outcome: hand_over.Outcome = end.value
        return outcome


def to_its_end(world: HandOverWorld, program: hand_over.HandOver) -> hand_over.Outcome:
    try:
        while True:
            until_a_look(world, program)
    except StopIteration as end:
        outcome: hand_over.Outcome = end.value
        return outcome


def done_within(world: HandOverWorld, steps: Steps, ticks: int = 100_000) -> Any:
    """What comes of it, or NOT_YET."""
    try:
        for _ in range(ticks):
            world.ticks += 1
            next(steps)
    except StopIteration as end:
        return end.value
    return NOT_YET
