"""`sweep`, `evict`, and what is counted by walking over all keys, on a cluster: node by node, each as one server.

A walk over a node counts for the shards that it has all the while. Slots that leave it answer so; slots that come to it
give it a new epoch, which every operation of a walk looks at first. Where either happens, the walk of that node begins
again.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial, reduce
from types import GeneratorType
from typing import Any, TypeVar

from msgspec import convert, to_builtins

from stoker.cache import cluster_pressure, evict, memory_use, scan, sweep
from stoker.cache.bans import Rule
from stoker.cache.cluster_map import part_of
from stoker.cache.errors import CacheUnavailable
from stoker.cache.evict import EvictReport
from stoker.cache.matching import Matching, added, find
from stoker.cache.node_link import NodeLink, Spread
from stoker.cache.options import CacheConfig
from stoker.cache.parts import Answers, Displaced, Layout, Node, Part, at_once, everywhere, wherever
from stoker.cache.programs import Steps
from stoker.cache.quotas import Quotas
from stoker.cache.reshard import Tidied
from stoker.cache.steps import Step
from stoker.cache.sweep import MOST_RESTARTS, SweepReport
from stoker.cache.wire import Operation

R = TypeVar("R", SweepReport, EvictReport)
_PLACE = "node", "epoch", "inner"
"""Of a cursor: which node is under way, and how far."""


@dataclass(frozen=True, slots=True)
class _Node:
    """A node at the beginning of a walk."""

    name: Node
    link: NodeLink
    epoch: int

    def unlike(self, numbers: list[int] | None) -> bool:
        """Whether it was not done, or has got shards since it was done with those."""
        return numbers is None or not set(self.link.numbers) <= set(numbers)


def count(spread: Spread, batch: int) -> Operation[dict[int, int]]:
    """How many entries each shard has."""

    def counted(node: Node, layout: Layout) -> Operation[dict[int, int]]:
        link = NodeLink(spread, node, layout)
        counts = yield from scan.count(link, batch)
        return {number: counts[place] for place, number in enumerate(link.numbers)}

    counts = dict.fromkeys(range(len(spread.shards)), 0)
    for found in (yield from everywhere(counted)).values():
        counts.update(found)
    return counts


def matching(spread: Spread, rules: Sequence[Rule], batch: int) -> Operation[Matching]:
    """As `matching.find`, of all nodes together."""

    def found(node: Node, layout: Layout) -> Operation[Matching]:
        return find(NodeLink(spread, node, layout), rules, batch)

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


def sweep_steps(spread: Spread, batch: int, cursor: dict[str, Any] | None) -> Steps[SweepReport]:
    """As `sweep.sweep_steps`."""
    if cursor and cursor["over"]:  # a pass that was complete: another one follows it
        report = replace(SweepReport(**cursor["report"]), restarts=0, complete=True)
        cursor = _begun(report)
    return _by_node(spread, partial(_sweep, batch), _swept, _all_needed, SweepReport(complete=True), cursor)


def _sweep(batch: int, node: _Node, _nodes: int, cursor: dict[str, Any] | None) -> Steps[SweepReport]:
    return sweep.sweep_steps(node.link, batch, cursor)


def _all_needed(_report: SweepReport, answers: Answers) -> SweepReport:
    raise CacheUnavailable("redis", answers.why)


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
    """As `evict.evict_steps`: each node by its own `maxmemory`, or down to its share of `target_bytes`.

    Tenants are measured once, at the beginning, on all nodes. A node without an answer is left as it is, and named.
    """
    at = cursor or _begun(EvictReport())
    if at["over"]:  # it had come to its end
        yield Step(0, 0, 0, at, EvictReport(**at["report"]), True)
        return
    if "quotas" not in at:
        portions, told = yield cluster_pressure.portions(spread, config.low_watermark)
        at = {
            **at,
            "quotas": to_builtins(portions),
            "report": asdict(_telling(EvictReport(**at["report"]), told)),
        }
    bounds = convert(at["quotas"], dict[Node, Quotas])

    def evicted(node: _Node, nodes: int, inner: dict[str, Any] | None) -> Steps[EvictReport]:
        node.link.bounds = bounds.get(node.name, Quotas())
        target = None if target_bytes is None else target_bytes // nodes
        return evict.evict_steps(node.link, config, now_ms, target, batch, inner, stay / nodes)

    def without(report: EvictReport, answers: Answers) -> EvictReport:
        return _telling(report, f"no answer from {', '.join(answers.missing)}")

    yield from _by_node(spread, evicted, _evicted, without, EvictReport(), at)


def _telling(report: EvictReport, why: str) -> EvictReport:
    return _evicted(report, EvictReport(reason=why))


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


def _begun(report: SweepReport | EvictReport) -> dict[str, Any]:
    """A cursor of which no node is done."""
    return {"done": {}, "report": asdict(report), "over": False}


def _by_node(
    spread: Spread,
    begin: Callable[[_Node, int, dict[str, Any] | None], Steps[R]],
    added: Callable[[R, R], R],
    without: Callable[[R, Answers], R],
    nothing: R,
    cursor: dict[str, Any] | None,
) -> Steps[R]:
    """Do it on one node after the other. The cursor: which are done, their report, and how far the present one is.

    Args:
        without: What the report becomes where nodes have no answer; or it raises.
    """
    at = cursor or _begun(nothing)
    restarts = 0
    while not at["over"]:
        answers: Answers = yield _nodes(spread)
        nodes: dict[Node, _Node] = answers.of
        if answers.missing:
            at = {**at, "report": asdict(without(type(nothing)(**at["report"]), answers))}
        left = [name for name, node in nodes.items() if node.unlike(at["done"].get(name))]
        if not left:  # those that were to come have gone
            at = {**at, "over": True}
            yield Step(0, 0, 0, at, type(nothing)(**at["report"]), True)
            return
        node: _Node = nodes[at["node"] if at.get("node") in left else left[0]]
        same = (node.name, node.epoch) == (at.get("node"), at.get("epoch"))
        inner = begin(node, len(nodes) + len(answers.missing), at["inner"] if same else None)
        at = {name: at[name] for name in at if name not in _PLACE}
        try:
            at = yield from _walk(node, inner, added, type(nothing)(**at["report"]), at, len(left) == 1)
        except Displaced:
            restarts += 1
            if restarts > MOST_RESTARTS:
                raise
            if "restarts" in at["report"]:
                at["report"] = {**at["report"], "restarts": at["report"]["restarts"] + 1}
        finally:
            inner.close()


def _walk(
    node: _Node,
    inner: Steps[R],
    added: Callable[[R, R], R],
    before: R,
    begun: dict[str, Any],
    is_last: bool,
) -> Generator[Any, Any, dict[str, Any]]:
    """The steps of one node, with the report of those before it added. Returns the last cursor."""
    yield _caught_up(node)
    while True:
        step = yield from _next(inner, node)
        report = added(before, step.report)
        if step.last:
            done = {**begun["done"], node.name: node.link.numbers}
            at = {**begun, "done": done, "report": asdict(report), "over": is_last}
        else:
            at = {**begun, "node": node.name, "epoch": node.epoch, "inner": step.cursor}
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


def _nodes(spread: Spread) -> Operation[Answers]:
    def meet(node: Node, layout: Layout) -> Operation[_Node]:
        epoch = yield from _epoch()
        return _Node(node, NodeLink(spread, node, layout), epoch)

    return wherever(meet)


def _epoch() -> Operation[int]:
    """The configuration epoch of a node, which is another one after slots have come to it from a newer owner."""
    return memory_use.whole(memory_use.facts((yield (("CLUSTER", "INFO"),)).reply()), "cluster_my_epoch")


def _caught_up(node: _Node) -> Operation[None]:
    """Know the control records of the node's shards, and see that they are good."""
    yield from at_once([part_of(shard, shard.catch_up) for shard in node.link.shards])
