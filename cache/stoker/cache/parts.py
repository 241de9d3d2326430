"""What an operation on a cluster is made of: parts, each an operation of one shard or on one node, without I/O.

`backends.cluster`, `cluster_verbs` and `cluster_map` make them, `cluster` sees to where they run.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar, cast

from stoker.cache.errors import CacheUnavailable
from stoker.cache.wire import Exchange, Operation

T = TypeVar("T")
Node = str
"""`host:port`, as the cluster tells it."""


class Layout:
    """Which node each slot is at."""

    def __init__(self, owners: list[Node | None]) -> None:
        self._owners = owners

    @property
    def nodes(self) -> list[Node]:
        """All nodes that slots are at."""
        return sorted({node for node in self._owners if node is not None})

    def node_of(self, slot: int) -> Node | None:
        """The slot's node; None if it has none."""
        return self._owners[slot]

    def move(self, slot: int, node: Node) -> None:
        """Go by what a node has said about a slot."""
        self._owners[slot] = node


class Part(NamedTuple):
    """What one shard, or one node, is asked.

    Attributes:
        where: A slot, or a node. What was to be asked of a node is not begun again.
        begin: Makes the operation, anew each time: it is begun again where the slot has moved.
        name: For messages.
    """

    where: int | Node
    begin: Callable[[], Operation[Any]]
    name: str


class Everywhere(NamedTuple):
    """What each node is asked that has slots."""

    begin: Callable[[Node, Layout], Operation[Any]]


Parts = tuple[Part, ...] | Everywhere


class NotAll(CacheUnavailable):
    """Some parts had no answer.

    Attributes:
        results: Of those that had, by their places.
    """

    results: dict[int, Any]


class Displaced(NotAll):
    """What was to be asked of a node is not, or not only, that node's any more."""


# What drives operations on a cluster knows parts only, as that on a server knows exchanges only: hence the casts.


def at_once(parts: Iterable[Part]) -> Operation[list[Any]]:
    """Run the parts beside each other; returns their results in order.

    Raises:
        NotAll: Some of them had no answer, which the reason names; the others were carried to their end.
    """
    return cast("list[Any]", (yield cast("Exchange", tuple(parts))))


def everywhere(begin: Callable[[Node, Layout], Operation[Any]]) -> Operation[dict[Node, Any]]:
    """Run an operation on each node; raises as `at_once`."""
    return cast("dict[Node, Any]", (yield cast("Exchange", Everywhere(begin))))


class Answers(NamedTuple):
    """What nodes said, those that had no answer, and why they had none."""

    of: dict[Node, Any]
    missing: tuple[Node, ...] = ()
    why: str = ""


def wherever(begin: Callable[[Node, Layout], Operation[T]]) -> Operation[Answers]:
    """As `everywhere`, and nodes without an answer cost the others nothing.

    Raises:
        NotAll: None had one.
    """
    asked: dict[Node, None] = {}

    def named(node: Node, layout: Layout) -> Operation[tuple[Node, T]]:
        asked[node] = None
        return _named(node, begin(node, layout))

    try:
        found = (yield from everywhere(named)).values()
    except NotAll as error:
        if not error.results:
            raise
        of = dict(error.results.values())
        return Answers(of, tuple(node for node in asked if node not in of), error.reason)
    return Answers(dict(found))


def _named(node: Node, operation: Operation[T]) -> Operation[tuple[Node, T]]:
    return node, (yield from operation)
