"""Many keys in pieces that hold no server for long, and the shards they are in. For the backends on Redis."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from stoker.cache.protocol import Name, Shard
from stoker.cache.wire import Operation, together

Item = TypeVar("Item")
T = TypeVar("T")
PAGE = 1000
"""Most keys of one round trip, so that no single command holds the server for long."""


def pages(items: Sequence[Item], most: int = PAGE) -> Iterator[Sequence[Item]]:
    """The items, at most so many at a time."""
    return (items[first : first + most] for first in range(0, len(items), most))


def spread(
    shards: Sequence[Shard],
    by_shard: Callable[[Sequence[Name]], Mapping[int, Sequence[int]]],
    items: Sequence[Item],
    name_of: Callable[[Item], Name],
    operation: Callable[[Shard, Sequence[Item]], Operation[list[T]]],
    most: int,
) -> Operation[list[T]]:
    """An operation over items of many shards, in pages, all shards of a page in the same round trips."""
    results: list[T] = []
    for page in pages(items, most):
        if len(shards) == 1:
            results += yield from operation(shards[0], page)
            continue
        groups = by_shard([name_of(item) for item in page])
        parts = [operation(shards[n], [page[i] for i in group]) for n, group in groups.items()]
        placed: dict[int, T] = {}
        for group, part in zip(groups.values(), (yield from together(parts)), strict=True):
            placed.update(zip(group, part, strict=True))
        results += [placed[index] for index in range(len(page))]
    return results


def then(operation: Operation[T], last: Callable[[], None]) -> Operation[T]:
    """An operation, and what is done when it has ended in any way."""
    try:
        return (yield from operation)
    finally:
        last()
