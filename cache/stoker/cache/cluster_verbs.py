"""`sweep`, `evict`, and what is counted by walking over all keys, on a cluster: node by node, each as one server.

A walk over a node counts for the shards that it has all the while. Slots that leave it answer so; slots that come to it
give it a new epoch, which every operation of a walk looks at first. Where either happens, the walk of that node begins
again.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial, reduce
from types import GeneratorType
from typing import Any, Protocol, TypeVar

from stoker.cache import evict, memory_use, pressure, scan, sweep
from stoker.cache.bans import Rule
from stoker.cache.cluster_map import part_of, slot_of
from stoker.cache.evict import EvictReport
from stoker.cache.keys import EntryNames
from stoker.cache.matching import Matching, added, find
from stoker.cache.options import CacheConfig
from stoker.cache.parts import Displaced, Layout, Node, Part, at_once, everywhere
from stoker.cache.programs import Steps
from stoker.cache.protocol import Shard
from stoker.cache.reshard import Tidied
from stoker.cache.steps import Step
from stoker.cache.sweep import MOST_RESTARTS, SweepReport
from stoker.cache.usage import Usage, redis_usage
from stoker.cache.wire import Operation

R = TypeVar("R", SweepReport, EvictReport)


class Spread(Protocol):
    """The shards of a cache, and the names of its entries."""

    shards: list[Shard]
    names: EntryNames


class _Names(EntryNames):
    """Names of the entries that a node has, by the places of their shards among the node's."""

    __slots__ = ("_all", "_places")

    def __init__(self, names: EntryNames, numbers: Sequence[int]) -> None:
        self._all = names
        self.pattern = names.pattern
        self._places = {number: place for place, number in enumerate(numbers)}

    def split(self, name: bytes) -> tuple[int, str, str] | None:
        parts = self._all.split(name)
        place = self._places.get(parts[0]) if parts is not None else None
        return (place, *parts[1:]) if parts is not None and place is not None else None


class _NodeLink:
    """The shards of one node, as `scan` wants them. Quotas are elsewhere: on a cluster no tenant goes before others."""

    quotas_key: bytes | None = None

    def __init__(self, spread: Spread, node: Node, layout: Layout) -> None:
        self.shards = [one for one in spread.shards if layout.node_of(slot_of(one)) == node]
        self.numbers = [one.keys.number for one in self.shards]
        self.names: EntryNames = _Names(spread.names, self.numbers)


@dataclass(frozen=True, slots=True)
class _Node:
    """A node at the beginning of a walk."""

    name: Node
    link: _NodeLink
    epoch: int

    def unlike(self, numbers: list[int] | None) -> bool:
        """Whether it was not done, or has got shards since it was done with those."""
        return numbers is None or not set(self.link.numbers) <= set(numbers)


def count(spread: Spread, batch: int) -> Operation[dict[int, int]]:
    """How many entries each shard has."""

    def counted(node: Node, layout: Layout) -> Operation[dict[int, int]]:
        link = _NodeLink(spread, node, layout)
        counts = yield from scan.count(link, batch)
        return {number: counts[place] for place, number in enumerate(link.numbers)}

    counts = dict.fromkeys(range(len(spread.shards)), 0)
    for found in (yield from everywhere(counted)).values():
        counts.update(found)
    return counts


def matching(spread: Spread, rules: Sequence[Rule], batch: int) -> Operation[Matching]:
    """As `matching.find`, of all nodes together."""

    def found(node: Node, layout: Layout) -> Operation[Matching]:
        return find(_NodeLink(spread, node, layout), rules, batch)

    return reduce(added, (yield from everywhere(found)).values(), Matching())


def tidy(spread: Spread, cursors: Mapping[Node, str], batch: int) -> Operation[Tidied]:
    """As `scan.drop_strays`: of each node that is not done, one page."""

    def page(node: Node, _layout: Layout) -> Operation[tuple[str, int, int]]:
        if cursors and cursors.get(node, "0") == "0":  # done, or come since: what has come begins cold
            return "0", 0, 0
        return (yield from scan.drop_strays(spread.names, len(spread.shards), cursors.get(node, "0"), batch))

    found = yield from everywhere(page)
    at = {node: cursor for node, (cursor, _, _) in found.items()}
    return Tidied(at, sum(n for _, n, _ in found.values()), sum(n for _, _, n in found.values()))


def usage(spread: Spread) -> Operation[Usage]:
    """Of all nodes together; `share` is that of the fullest, as each has a limit of its own."""
    found = yield from everywhere(lambda node, layout: redis_usage(_NodeLink(spread, node, layout)))
    nodes = list(found.values())
    limit = sum(one.limit_bytes for one in nodes) if all(one.limit_bytes for one in nodes) else 0
    return Usage(
        sum(one.entries for one in nodes),
        sum(one.used_bytes for one in nodes),
        limit,
        max((one.share for one in nodes), default=0.0),
        sum(one.evictions for one in nodes),
    )


def node() -> Operation[pressure.Node]:
    """All nodes as one: sums, and the fragmentation of the worst; with a policy that is not the same, none."""
    nodes = list((yield from everywhere(lambda _node, _layout: pressure.node())).values())
    policies = {one.policy for one in nodes}
    return pressure.Node(
        used_bytes=sum(one.used_bytes for one in nodes),
        limit_bytes=sum(one.limit_bytes for one in nodes) if all(one.limit_bytes for one in nodes) else 0,
        policy=policies.pop() if len(policies) == 1 else "",
        rss_bytes=sum(one.rss_bytes for one in nodes),
        fragmentation=max((one.fragmentation for one in nodes), default=0.0),
        client_bytes=sum(one.client_bytes for one in nodes),
        keys=sum(one.keys for one in nodes),
        evicted=sum(one.evicted for one in nodes),
        expired=sum(one.expired for one in nodes),
    )


def makeup(spread: Spread, wanted: int) -> Operation[pressure.Makeup]:
    """Of all nodes together, each sampled alike."""

    def sampled(node: Node, layout: Layout) -> Operation[pressure.Makeup]:
        return pressure.makeup(_NodeLink(spread, node, layout), max(1, wanted // len(layout.nodes)))

    return pressure.added_up(list((yield from everywhere(sampled)).values()))


def sweep_steps(spread: Spread, batch: int, cursor: dict[str, Any] | None) -> Steps[SweepReport]:
    """As `sweep.sweep_steps`."""
    if cursor and cursor["over"]:  # a pass that was complete: another one follows it
        report = replace(SweepReport(**cursor["report"]), restarts=0, complete=True)
        cursor = {"done": {}, "report": asdict(report), "over": False}
    return _by_node(spread, partial(_sweep, batch), _swept, SweepReport(complete=True), cursor)


def _sweep(batch: int, node: _Node, _nodes: int, cursor: dict[str, Any] | None) -> Steps[SweepReport]:
    return sweep.sweep_steps(node.link, batch, cursor)


def _swept(one: SweepReport, other: SweepReport) -> SweepReport:
    return replace(_added(one, other), complete=one.complete and other.complete)


def evict_steps(
    spread: Spread,
    config: CacheConfig,
    now_ms: Callable[[], int],
    target_bytes: int | None,
    batch: int,
    cursor: dict[str, Any] | None,
    stay: float,
) -> Steps[EvictReport]:
    """As `evict.evict_steps`: each node by its own `maxmemory`, or down to its share of `target_bytes`."""

    def evicted(node: _Node, nodes: int, inner: dict[str, Any] | None) -> Steps[EvictReport]:
        target = None if target_bytes is None else target_bytes // nodes
        return evict.evict_steps(node.link, config, now_ms, target, batch, inner, stay / nodes)

    if cursor and cursor["over"]:  # it had come to its end
        return _ended(EvictReport(**cursor["report"]), cursor)
    return _by_node(spread, evicted, _evicted, EvictReport(), cursor)


def _ended(report: EvictReport, cursor: dict[str, Any]) -> Steps[EvictReport]:
    yield Step(0, 0, 0, cursor, report, True)


def _evicted(one: EvictReport, other: EvictReport) -> EvictReport:
    targets = [report.target_bytes for report in (one, other) if report.target_bytes is not None]
    reasons = dict.fromkeys(
        reason for report in (one, other) for reason in report.reason.split("; ") if reason
    )
    return replace(
        _added(one, other),
        target_bytes=sum(targets) if targets else None,
        freed=_summed(one.freed, other.freed),
        freed_of=_summed(one.freed_of, other.freed_of),
        reason="; ".join(reasons),
    )


def _summed(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in one | other}


def _added(one: R, other: R) -> R:
    """Each number the sum of both; what is none is the first's."""
    sums = {
        field.name: getattr(one, field.name) + getattr(other, field.name)
        for field in fields(one)
        if type(getattr(one, field.name)) is int and type(getattr(other, field.name)) is int
    }
    return replace(one, **sums)


def _by_node(
    spread: Spread,
    begin: Callable[[_Node, int, dict[str, Any] | None], Steps[R]],
    added: Callable[[R, R], R],
    nothing: R,
    cursor: dict[str, Any] | None,
) -> Steps[R]:
    """Do it on one node after the other. The cursor: which are done, their report, and how far the present one is."""
    at = cursor or {"done": {}, "report": asdict(nothing), "over": False}
    restarts = 0
    while not at["over"]:
        nodes = yield _nodes(spread)
        left = [name for name, node in nodes.items() if node.unlike(at["done"].get(name))]
        if not left:  # those that were to come have gone
            at = {**at, "over": True}
            yield Step(0, 0, 0, at, type(nothing)(**at["report"]), True)
            return
        node: _Node = nodes[at["node"] if at.get("node") in left else left[0]]
        same = (node.name, node.epoch) == (at.get("node"), at.get("epoch"))
        inner = begin(node, len(nodes), at["inner"] if same else None)
        try:
            at = yield from _walk(
                node, inner, added, type(nothing)(**at["report"]), at["done"], len(left) == 1
            )
        except Displaced:
            restarts += 1
            if restarts > MOST_RESTARTS:
                raise
            at = {name: at[name] for name in ("done", "report", "over")}
            if "restarts" in at["report"]:
                at["report"] = {**at["report"], "restarts": at["report"]["restarts"] + 1}
        finally:
            inner.close()


def _walk(
    node: _Node,
    inner: Steps[R],
    added: Callable[[R, R], R],
    before: R,
    done: dict[Node, list[int]],
    is_last: bool,
) -> Generator[Any, Any, dict[str, Any]]:
    """The steps of one node, with the report of those before it added. Returns the last cursor."""
    yield _caught_up(node)
    while True:
        step = yield from _next(inner, node)
        report = added(before, step.report)
        at = {"done": done, "report": asdict(before), "over": False}
        if step.last:
            at = {"done": {**done, node.name: node.link.numbers}, "report": asdict(report), "over": is_last}
        else:
            at.update(node=node.name, epoch=node.epoch, inner=step.cursor)
        yield Step(step.done, step.total, step.failed, at, report, step.last and is_last)
        if step.last:
            return at


def _next(inner: Steps[R], node: _Node) -> Generator[Any, Any, Step[R]]:
    """Go on to the next step, having what is asked of the server asked of the node."""
    effect = inner.send(None)
    while not isinstance(effect, Step):
        if isinstance(effect, GeneratorType):
            answer = yield _on(node, effect)
        else:
            answer = yield effect
        effect = inner.send(answer)
    return effect


def _on(node: _Node, operation: Operation[Any]) -> Operation[Any]:
    def checked() -> Operation[Any]:
        if (yield from _epoch()) != node.epoch:
            raise Displaced("redis", f"slots have come to {node.name}")
        return (yield from operation)

    [result] = yield from at_once((Part(node.name, checked, node.name),))
    return result


def _nodes(spread: Spread) -> Operation[dict[Node, _Node]]:
    def meet(node: Node, layout: Layout) -> Operation[_Node]:
        epoch = yield from _epoch()
        return _Node(node, _NodeLink(spread, node, layout), epoch)

    return (yield from everywhere(meet))


def _epoch() -> Operation[int]:
    """The configuration epoch of a node, which is another one after slots have come to it from a newer owner."""
    return memory_use.whole(memory_use.facts((yield (("CLUSTER", "INFO"),)).reply()), "cluster_my_epoch")


def _caught_up(node: _Node) -> Operation[None]:
    """Know the control records of the node's shards, and see that they are good."""
    yield from at_once([part_of(shard, shard.catch_up) for shard in node.link.shards])
