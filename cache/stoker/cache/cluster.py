"""Operations on a cluster, without I/O: which part goes to which node, and what follows when a slot has moved.

An operation of the protocol runs on one connection to one node, for the keys of one shard, which are in one slot. An
operation on a cluster (`backends.cluster` makes them) yields `Parts` instead of exchanges, and is sent their results.
`Router` groups parts by node, has all nodes asked at the same time, and begins a part anew where its slot has moved, or
its shard needs the map. `cluster_transport` performs what it asks for.
"""

from collections.abc import Generator, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

from redis.exceptions import AskError, ClusterDownError, MovedError, TryAgainError

from stoker.cache import cluster_map
from stoker.cache.cluster_map import Expected, Unmended, still_expected
from stoker.cache.dialogue import any_error
from stoker.cache.errors import CacheUnavailable
from stoker.cache.parts import Displaced, Everywhere, Layout, Node, NotAll, Part, Parts
from stoker.cache.shards import Resharded
from stoker.cache.wire import Answer, Exchange, Operation

T = TypeVar("T")
ATTEMPTS = 5
"""How often a part is begun before it counts as unavailable."""
REST_S, LONGEST_REST_S, GROWTH = 0.005, 0.05, 1.25
"""Between two looks at a shard that has been moved and is about to be handed over: the first, and how they grow. All
who wait look, so that a hand-over that comes to nothing must not cost its nodes much."""
PATIENCE_S = 2.0
"""After so much rest the shard begins cold: whoever was handing it over is gone."""


class Moved(Exception):
    """The slot is elsewhere; nothing was done."""

    def __init__(self, slot: int, node: Node) -> None:
        super().__init__(slot, node)
        self.slot = slot
        self.node = node


class Round(NamedTuple):
    """Operations to be run at the same time, one on each node. Answer: the result of each, or its CacheUnavailable."""

    operations: dict[Node, Operation[list[Any]]]


class Rest(NamedTuple):
    """Do nothing for so many seconds."""

    seconds: float


class Look(NamedTuple):
    """Have the layout learned: now, which is the answer, or `beside` the caller."""

    beside: bool


Routed = Generator[Round | Look | Rest, Any, T]


class Router:
    """Runs operations on one cluster. `layout` is replaced by whoever learns a new one."""

    def __init__(self) -> None:
        self.layout: Layout | None = None

    def run(self, operation: Operation[T]) -> Routed[T]:
        """Drive an operation on a cluster."""
        try:
            parts = cast("Parts", next(operation))
            while True:
                try:
                    results: Any = yield from self._ask(parts)
                except CacheUnavailable as error:
                    parts = cast("Parts", operation.throw(error))
                else:
                    parts = cast("Parts", operation.send(cast("Answer", results)))
        except StopIteration as stop:
            result: T = stop.value
            return result

    def _ask(self, parts: Parts) -> Routed[Any]:
        if not isinstance(parts, Everywhere):
            assert not parts or isinstance(parts[0], Part), "an operation of one server; see backends.cluster"
            return (yield from self._all(parts))
        layout: Layout = self.layout or (yield Look(beside=False))
        nodes = layout.nodes
        its = tuple(Part(node, partial(parts.begin, node, layout), node) for node in nodes)
        return dict(zip(nodes, (yield from self._all(its)), strict=True))

    def _all(self, parts: Sequence[Part]) -> Routed[list[Any]]:
        displaced = False
        results: dict[int, Any] = {}
        failures: dict[int, str] = {}
        left = list(range(len(parts)))
        attempts, rested = 0, 0.0
        while left and attempts < ATTEMPTS:
            outcomes = yield from self._try([parts[i] for i in left])
            moved: list[int] = []
            unmended: dict[int, Unmended] = {}
            for i, outcome in zip(left, outcomes, strict=True):
                if not isinstance(outcome, Exception):
                    results[i] = outcome
                elif isinstance(parts[i].where, str) or isinstance(outcome, CacheUnavailable):
                    failures[i] = _reason(outcome)
                    displaced = displaced or isinstance(outcome, Displaced | Moved | Unmended)
                elif isinstance(outcome, Unmended):
                    unmended[i] = outcome
                else:
                    moved.append(i)
            expected: Expected = {}
            if unmended:
                patient = rested < PATIENCE_S
                try:
                    bad = list(unmended.values())
                    expected = yield from self.run(cluster_map.mend(bad, patient=patient))
                except Resharded:
                    raise
                except CacheUnavailable as error:
                    failures.update(dict.fromkeys(unmended, error.reason))
                    unmended.clear()
            left = sorted((*moved, *unmended))
            if expected:
                rested += yield from self._wait(expected, PATIENCE_S - rested)
            else:
                attempts += 1
        failures.update(dict.fromkeys(left, "its slot or its control record keeps changing; try again"))
        if failures:
            incomplete = (Displaced if displaced else NotAll)("redis", _summary(parts, failures))
            incomplete.results = results
            raise incomplete
        return [results[i] for i in range(len(parts))]

    def _wait(self, expected: Expected, longest: float) -> Routed[float]:
        """Rest until one of these records changes, or cannot be asked for; returns for how many seconds."""
        rest, rested = REST_S, 0.0
        try:
            while rested < longest:
                yield Rest(rest)
                rested += rest
                rest = min(rest * GROWTH, LONGEST_REST_S)
                if not (yield from self.run(still_expected(expected))):
                    break
        except CacheUnavailable:
            pass  # the next attempt says so too
        return rested

    def _try(self, parts: Sequence[Part]) -> Routed[list[Any]]:
        """What became of each part: its result, or an error."""
        layout: Layout = self.layout or (yield Look(beside=False))
        outcomes: dict[int, Any] = {}
        groups: dict[Node, list[int]] = {}
        for i, part in enumerate(parts):
            node = layout.node_of(part.where) if isinstance(part.where, int) else part.where
            if node is None:
                outcomes[i] = CacheUnavailable("redis", f"no node of the cluster has slot {part.where}")
            else:
                groups.setdefault(node, []).append(i)
        operations = {
            node: _outcomes(node, [parts[i].begin() for i in group]) for node, group in groups.items()
        }
        answers = (yield Round(operations)) if operations else {}
        for node, group in groups.items():
            answer = answers[node]
            if isinstance(answer, CacheUnavailable):
                named = answer.reason if node in answer.reason else f"{answer.reason} ({node})"
                answer = [CacheUnavailable("redis", named)] * len(group)
            outcomes.update(zip(group, answer, strict=True))
        yield from self._learn(layout, outcomes.values())
        return [outcomes[i] for i in range(len(parts))]

    def _learn(self, layout: Layout, outcomes: Iterable[Any]) -> Routed[None]:
        errors = [outcome for outcome in outcomes if isinstance(outcome, Moved | CacheUnavailable)]
        for error in errors:
            if isinstance(error, Moved):
                layout.move(error.slot, error.node)
        if errors:
            yield Look(beside=True)


def _outcomes(node: Node, operations: Sequence[Operation[Any]]) -> Operation[list[Any]]:
    """Several operations on one node: each round trip carries what all ask for next. Errors are among the results."""
    outcomes: dict[int, Any] = {}
    waiting: dict[int, Exchange] = {}

    def advance(index: int, answer: Answer | None) -> None:
        operation = operations[index]
        try:
            waiting[index] = next(operation) if answer is None else operation.send(answer)
        except StopIteration as stop:
            outcomes[index] = stop.value
        except (CacheUnavailable, Unmended) as error:
            outcomes[index] = error

    for index in range(len(operations)):
        advance(index, None)
    while waiting:
        asked, waiting = waiting, {}
        answer = yield tuple(command for commands in asked.values() for command in commands)
        faulty = any_error(answer.replies)
        at = 0
        for index, commands in asked.items():
            replies = answer.replies[at : at + len(commands)]
            at += len(commands)
            misplaced = _misplaced(node, replies) if faulty else None
            if misplaced is None:
                advance(index, Answer(replies, answer.server, answer.process))
            else:
                operations[index].close()
                outcomes[index] = misplaced
    return [outcomes[index] for index in range(len(operations))]


def _misplaced(node: Node, replies: Sequence[Any]) -> Exception | None:
    """Why these commands are not to be judged by what they answered: not all of them ran where the slot is.

    ASK is not followed: some of the shard's keys are on each of two nodes, so neither can say what may be served.
    """
    for reply in replies:
        if isinstance(reply, MovedError):
            host = reply.host or node.rpartition(":")[0]  # without one it is this node's
            return Moved(reply.slot_id, f"{host}:{reply.port}")
        if isinstance(reply, AskError | TryAgainError):
            return CacheUnavailable("redis", "its slot is being moved key by key")
        if isinstance(reply, ClusterDownError):
            return CacheUnavailable("redis", str(reply))
    return None


def _reason(error: Exception) -> str:
    if isinstance(error, CacheUnavailable):
        return error.reason
    return "it is on another node by now" if isinstance(error, Moved) else "its control record is not good"


def _summary(parts: Sequence[Part], failures: dict[int, str]) -> str:
    """Who had no answer, and why; those that share a reason together."""
    if len(parts) == 1:
        return failures[0]
    names: dict[str, list[str]] = {}
    for i, reason in sorted(failures.items()):
        names.setdefault(reason, []).append(parts[i].name)
    shown = "; ".join(f"{', '.join(dict.fromkeys(who))}: {reason}" for reason, who in names.items())
    return f"{len(failures)} of {len(parts)} had no answer: {shown}"
