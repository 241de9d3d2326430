"""Which slots should move where so that every node has its share: a plan, from what each slot weighs. No I/O.

`shard_weights` weighs, `rebalance` acts. A slot is the unit: it moves with all that is in it, and shards that share one
stay together.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from stoker.cache.errors import ConfigError
from stoker.cache.parts import Node

CLOSE = 0.05
"""The plan ends once every node is within this of its share, so that it still is within 10 % when it has been carried
out and keys have come and gone meanwhile."""
SLOT_S = 0.45
"""What a slot takes besides its bytes, for the estimate: the target is let in, and the mover rests for as long. On busy
nodes it is about twice that."""
BYTES_A_SECOND = 50 * 2**20
"""Of the estimate; a job tells how it really goes."""


@dataclass(frozen=True, slots=True)
class Member:
    """A primary: its name for the cluster, and where it is."""

    id: str
    node: Node


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot with shards in it.

    Attributes:
        node: Whose it is.
        keys: In it now.
        bytes: That they take, by a sample.
        load: Microseconds of CPU that it has cost its node; None if the node does not count them.
    """

    slot: int
    shards: tuple[int, ...]
    node: Node
    keys: int
    bytes: int
    load: int | None = None


@dataclass(frozen=True, slots=True)
class SlotMove:
    """A slot, and from where to where."""

    slot: int
    shards: tuple[int, ...]
    source: Node
    target: Node
    keys: int
    bytes: int


@dataclass(frozen=True, slots=True)
class NodeShare:
    """What a node has now, will have, and should have; each a share of the whole, 0 to 1."""

    node: Node
    before: float
    after: float
    target: float


@dataclass(frozen=True, slots=True)
class HotShard:
    """Shards of one slot that are more than a node's share. To move them does not help."""

    shards: tuple[int, ...]
    node: Node
    share: float
    target: float


@dataclass(frozen=True, slots=True)
class RebalancePlan:
    """What would move.

    Attributes:
        by: What was weighed: `keys`, `bytes` or `load`.
        moves: In this order.
        nodes: All primaries.
        hot: Shards that no plan can make fit.
        seconds: What it may take, estimated.
    """

    by: str
    moves: tuple[SlotMove, ...]
    nodes: tuple[NodeShare, ...]
    hot: tuple[HotShard, ...]
    seconds: float

    @property
    def keys(self) -> int:
        """That would move."""
        return sum(move.keys for move in self.moves)

    @property
    def bytes(self) -> int:
        """That would move."""
        return sum(move.bytes for move in self.moves)


def plan(
    by: str, members: Sequence[Member], slots: Sequence[Slot], weights: Mapping[str, float] | None = None
) -> RebalancePlan:
    """The fewest moves that bring every node within `CLOSE` of its share, as far as a greedy choice finds them.

    Args:
        by: `keys`, `bytes` or `load`.
        weights: How much a node is to have in proportion to others, by its address or id; 1 where it is left out, 0 to
            empty it.

    Raises:
        ConfigError: A weight is of nobody or none, or load is not counted.
    """
    targets = _targets(members, weights or {})
    weight = {slot.slot: _weight(by, slot) for slot in slots}
    total = sum(weight.values())
    at = {slot.slot: slot.node for slot in slots}
    has = {member.node: 0 for member in members}
    for slot in slots:
        has[slot.node] = has.get(slot.node, 0) + weight[slot.slot]
    before = dict(has)
    wanted = {node: total * targets.get(node, 0.0) for node in has}
    while (step := _next_move(slots, weight, at, has, wanted)) is not None:
        moving, target = step
        has[at[moving]] -= weight[moving]
        has[target] += weight[moving]
        at[moving] = target
    moves = [
        SlotMove(one.slot, one.shards, one.node, at[one.slot], one.keys, one.bytes)
        for one in slots
        if at[one.slot] != one.node
    ]
    moves.sort(key=lambda move: -weight[move.slot])
    shares = (
        [
            NodeShare(node, before[node] / total, has[node] / total, targets.get(node, 0.0))
            for node in sorted(has)
        ]
        if total
        else [NodeShare(node, 0.0, 0.0, targets.get(node, 0.0)) for node in sorted(has)]
    )
    most = max(targets.values())
    hot = [
        HotShard(one.shards, at[one.slot], weight[one.slot] / total, most)
        for one in slots
        if total and weight[one.slot] / total > most * (1 + CLOSE)
    ]
    seconds = len(moves) * SLOT_S + sum(move.bytes for move in moves) / BYTES_A_SECOND
    return RebalancePlan(by, tuple(moves), tuple(shares), tuple(hot), round(seconds, 1))


def _targets(members: Sequence[Member], weights: Mapping[str, float]) -> dict[Node, float]:
    """Each node's share of the whole."""
    known = {member.id: member.node for member in members} | {member.node: member.node for member in members}
    wanted = {member.node: 1.0 for member in members}
    for name, weight in weights.items():
        if name not in known:
            raise ConfigError("weights", name, f"no such primary; there are {', '.join(sorted(wanted))}")
        if isinstance(weight, bool) or not 0 <= weight < math.inf:
            raise ConfigError("weights", f"{name}={weight}", "give a number, 0 or more")
        wanted[known[name]] = float(weight)
    total = sum(wanted.values())
    if not total:
        raise ConfigError(
            "weights", dict(weights), "give at least one node more than 0: somebody has to have them"
        )
    return {node: weight / total for node, weight in wanted.items()}


def _weight(by: str, slot: Slot) -> int:
    """What a slot weighs; an empty one a little, for it will not stay empty. A whole number, so that sums are exact."""
    match by:
        case "keys":
            return 100 * slot.keys + 1
        case "bytes":
            return 100 * slot.bytes + 1
        case "load" if slot.load is not None:
            return 100 * slot.load + 1
        case "load":
            remedy = "its nodes do not count load: Valkey 8 or later with cluster-slot-stats-enabled yes does"
            raise ConfigError("by", by, f"{remedy}; or weigh keys or bytes")
    raise ConfigError("by", by, "give keys, bytes or load")


def _next_move(
    slots: Sequence[Slot],
    weight: Mapping[int, int],
    at: Mapping[int, Node],
    has: Mapping[Node, int],
    wanted: Mapping[Node, float],
) -> tuple[int, Node] | None:
    """The move that brings the two nodes that are furthest from their shares closest to them; None if none helps.

    Each slot moves at most once: what has moved stays. Every move makes the sum of the distances smaller, so it ends.
    """
    over = {node: has[node] - wanted[node] for node in has}
    if all(abs(over[node]) <= CLOSE * wanted[node] for node in over):
        return None
    givers = sorted((node for node in over if over[node] > 0), key=lambda node: -over[node])
    takers = sorted((node for node in over if over[node] < 0), key=over.__getitem__)
    for giver, taker in product(givers, takers):
        surplus, room = over[giver], -over[taker]
        if surplus <= CLOSE * wanted[giver] and room <= CLOSE * wanted[taker]:
            continue

        def distance(slot: int, surplus: float = surplus, room: float = room) -> float:
            return abs(surplus - weight[slot]) + abs(room - weight[slot])

        its = [one.slot for one in slots if at[one.slot] == giver == one.node]
        best = min(its, key=lambda slot: (distance(slot), -weight[slot], slot), default=None)
        if best is not None and distance(best) < (surplus + room) * (1 - 1e-9):
            return best, taker
    return None
