"""Which slots a plan moves: as few as it takes, never for the worse, and what it says where no move helps."""

import itertools
import os
from random import Random

import pytest

from stoker.cache import ConfigError
from stoker.cache.balance import CLOSE, Member, RebalancePlan, Slot, plan

SEED = int(os.environ.get("STOKER_TEST_SEED", "1"))


def members(count: int) -> list[Member]:
    return [Member(f"id{n}", f"node{n}:1") for n in range(count)]


def slots(keys: list[int], nodes: int) -> list[Slot]:
    """As many slots, dealt to the nodes by turns."""
    return [Slot(n, (n,), f"node{n % nodes}:1", count, 100 * count) for n, count in enumerate(keys)]


def furthest(found: RebalancePlan) -> float:
    """How far a node will be from its share, in parts of that share."""
    return max(abs(one.after - one.target) / one.target for one in found.nodes if one.target)


def test_a_fourth_node_is_given_its_share_and_nothing_else_moves() -> None:
    found = plan("keys", members(4), slots([100] * 60, 3))
    assert len(found.moves) == 15
    assert {move.target for move in found.moves} == {"node3:1"}
    assert furthest(found) < 1e-3
    assert (found.keys, found.bytes) == (1500, 150_000)
    assert found.seconds > 0


def test_what_is_even_stays_where_it_is() -> None:
    assert plan("keys", members(3), slots([100] * 60, 3)).moves == ()
    assert plan("keys", members(3), []).moves == ()


def test_weights_are_shares_in_proportion_and_none_empties_a_node() -> None:
    found = plan("keys", members(3), slots([100] * 60, 3), {"node0:1": 2, "id2": 0})
    assert [round(one.target, 3) for one in found.nodes] == [0.667, 0.333, 0]
    assert found.nodes[2].after == 0
    assert furthest(found) <= CLOSE


def test_an_empty_shard_leaves_a_node_that_is_to_be_emptied_too() -> None:
    found = plan("keys", members(2), slots([100, 0, 100, 0], 2), {"id1": 0})
    assert {move.slot for move in found.moves} == {1, 3}


def test_random_clusters_end_as_even_as_their_slots_allow_and_by_few_moves() -> None:
    for seed in range(SEED, SEED + 200):
        chance = Random(seed)
        nodes = chance.randint(2, 6)
        its = slots([chance.randint(0, 1000) for _ in range(64)], chance.randint(1, nodes))
        found = plan("keys", members(nodes), its)
        assert len({move.slot for move in found.moves}) == len(found.moves), f"seed {seed}"
        assert furthest(found) <= 0.1, f"seed {seed}"
        ideal = sum(max(0.0, one.before - one.target) for one in found.nodes) * sum(one.keys for one in its)
        assert abs(found.keys - ideal) <= 0.1 * ideal + CLOSE * sum(one.keys for one in its), f"seed {seed}"


def test_the_plan_moves_at_most_one_slot_more_than_the_best() -> None:
    """On clusters so small that every plan can be tried."""
    for seed in range(SEED, SEED + 20):
        chance = Random(seed)
        its = slots([chance.randint(1, 9) for _ in range(7)], 2)
        found = plan("keys", members(3), its)
        if furthest(found) > CLOSE:
            continue
        total = sum(one.keys for one in its)
        fewest = min(
            sum(one.node != node for one, node in zip(its, there, strict=True))
            for there in itertools.product([f"node{n}:1" for n in range(3)], repeat=len(its))
            if all(
                abs(
                    sum(one.keys for one, at in zip(its, there, strict=True) if at == f"node{n}:1")
                    - total / 3
                )
                <= CLOSE * total / 3
                for n in range(3)
            )
        )
        assert len(found.moves) <= fewest + 1, f"seed {seed}"


def test_a_shard_that_is_more_than_a_share_is_named_and_not_moved_about() -> None:
    found = plan("keys", members(3), slots([1000, 10, 10, 10, 10, 10], 3))
    assert [(hot.shards, hot.node) for hot in found.hot] == [((0,), "node0:1")]
    assert found.hot[0].share == pytest.approx(1000 / 1050, abs=0.01)
    assert 0 not in {move.slot for move in found.moves}


@pytest.mark.parametrize(
    ("by", "weights", "told"),
    [
        ("keys", {"node9:1": 1}, "no such primary; there are node0:1, node1:1"),
        ("keys", {"node0:1": -1}, "give a number, 0 or more"),
        ("keys", {"node0:1": float("nan")}, "give a number, 0 or more"),
        ("keys", {"id0": 0, "id1": 0}, "somebody has to have them"),
        ("load", {}, "cluster-slot-stats-enabled yes"),
        ("size", {}, "give keys, bytes or load"),
    ],
)
def test_what_cannot_be_planned_is_refused_with_a_remedy(
    by: str, weights: dict[str, float], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        plan(by, members(2), slots([1, 2], 2), weights)
