"""What each slot with shards in it weighs, and which primaries there are; without I/O. For `balance`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from stoker.cache.balance import Member, Slot
from stoker.cache.cluster_map import slot_of
from stoker.cache.errors import CacheUnavailable
from stoker.cache.node_link import Spread
from stoker.cache.parts import Layout, Node, Part, at_once, everywhere
from stoker.cache.wire import Operation

SAMPLED = 20
"""Keys of a slot whose bytes are asked for."""


class Census(NamedTuple):
    """The primaries that are up, those without slots too, and whose each slot is; as most nodes with slots tell it."""

    members: list[Member]
    owners: dict[int, Node]

    def id_of(self, node: Node) -> str | None:
        """The cluster's name for the node, if it is a primary."""
        return next((member.id for member in self.members if member.node == node), None)


def census() -> Operation[Census]:
    """Ask all nodes that have slots."""

    def asked(_node: Node, layout: Layout) -> Operation[list[tuple[Member, list[int]]]]:
        answer = yield (("CLUSTER", "SHARDS"),)
        return _primaries(answer.reply(), set(layout.nodes))

    told = yield from everywhere(asked)
    members: Counter[Member] = Counter()
    owners: dict[int, Counter[Node]] = {}
    for primaries in told.values():
        for member, slots in primaries:
            members[member] += 1
            for slot in slots:
                owners.setdefault(slot, Counter())[member.node] += 1
    known = sorted((one for one in members if 2 * members[one] > len(told)), key=lambda one: one.node)
    return Census(known, {slot: votes.most_common(1)[0][0] for slot, votes in owners.items()})


def _primaries(reply: Any, known: set[Node]) -> list[tuple[Member, list[int]]]:
    """Those that are up, with their slots; `known` are addresses as the cluster tells them to us."""
    found = []
    for raw_shard in reply:
        shard = facts(raw_shard)
        bounds = shard["slots"]
        slots = [n for at in range(0, len(bounds), 2) for n in range(bounds[at], bounds[at + 1] + 1)]
        for node in map(facts, shard["nodes"]):
            if text(node["role"]) == "master" and text(node["health"]) == "online":
                found.append((node, slots))
    tls = any(_address(node, "tls-port") in known for node, _ in found)
    port = "tls-port" if tls else "port"
    return [(Member(text(node["id"]), _address(node, port)), slots) for node, slots in found]


def _address(node: Mapping[str, Any], port: str) -> Node:
    return f"{text(node['endpoint'])}:{node.get(port, '')}"


def slots(spread: Spread, owners: Mapping[int, Node], by: str) -> Operation[list[Slot]]:
    """All slots with shards of this cache in them, weighed by their nodes.

    Raises:
        CacheUnavailable: A node did not answer, or a slot has none.
    """
    shards: dict[int, list[int]] = {}
    its: dict[Node, list[int]] = {}
    for number, slot in enumerate(map(slot_of, spread.shards)):
        if slot not in owners:
            raise CacheUnavailable("redis", f"no node of the cluster has slot {slot}")
        if slot not in shards:
            its.setdefault(owners[slot], []).append(slot)
        shards.setdefault(slot, []).append(number)
    parts = [Part(node, partial(_weighed, node, mine, by), node) for node, mine in its.items()]
    found: list[dict[int, dict[str, Any]]] = yield from at_once(parts)
    weighed = {slot: facts for one in found for slot, facts in one.items()}
    return [Slot(slot, tuple(shards[slot]), **weighed[slot]) for slot in sorted(weighed)]


def _weighed(node: Node, slots: Sequence[int], by: str) -> Operation[dict[int, dict[str, Any]]]:
    answer = yield tuple(
        command
        for slot in slots
        for command in (
            ("CLUSTER", "COUNTKEYSINSLOT", slot),
            ("CLUSTER", "GETKEYSINSLOT", slot, SAMPLED),
        )
    )
    counts = [int(answer.reply(2 * i)) for i in range(len(slots))]
    sampled = [answer.reply(2 * i + 1) for i in range(len(slots))]
    sizes = iter((yield from _sizes([name for names in sampled for name in names])))
    found: dict[int, dict[str, Any]] = {}
    for slot, count, names in zip(slots, counts, sampled, strict=True):
        known = [size for size in (next(sizes) for _ in names) if size]
        size = round(count * sum(known) / len(known)) if known else 0
        found[slot] = {"node": node, "keys": count, "bytes": size}
    if by == "load":
        for slot, load in zip(slots, (yield from _loads(slots)), strict=True):
            found[slot]["load"] = load
    return found


def _sizes(names: Sequence[bytes]) -> Operation[list[int]]:
    """The bytes that keys take; 0 for one that has gone."""
    if not names:
        return []
    answer = yield tuple(("MEMORY", "USAGE", name) for name in names)
    return [reply if isinstance(reply, int) else 0 for reply in answer.replies]


def _loads(slots: Sequence[int]) -> Operation[list[int | None]]:
    """CPU time of each slot; None where it is not counted."""
    answer = yield tuple(("CLUSTER", "SLOT-STATS", "SLOTSRANGE", slot, slot) for slot in slots)
    loads: list[int | None] = []
    for reply in answer.replies:
        stats = {} if isinstance(reply, Exception) or not reply else facts(reply[0][1])
        loads.append(stats.get("cpu-usec"))
    return loads


def facts(raw: Any) -> Mapping[str, Any]:
    """A map as the server tells it, as pairs or, in newer protocols, as a map."""
    pairs = raw.items() if isinstance(raw, dict) else zip(raw[::2], raw[1::2], strict=True)
    return {text(name): value for name, value in pairs}


def text(value: Any) -> str:
    """Bytes as text."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
