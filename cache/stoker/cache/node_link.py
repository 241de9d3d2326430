"""What one node of a cluster has of a cache: its shards, as `scan` wants those of a server. For `cluster_*`."""

from collections.abc import Sequence
from typing import Protocol

from stoker.cache.cluster_map import slot_of
from stoker.cache.keys import EntryNames
from stoker.cache.parts import Layout, Node
from stoker.cache.protocol import Shard
from stoker.cache.quotas import Quotas
from stoker.cache.wire import Operation, asking_nobody


class Spread(Protocol):
    """The shards of a cache, and the names of its entries; what tenants may have, and where that is."""

    shards: list[Shard]
    names: EntryNames
    quotas_key: bytes

    def quotas(self) -> Operation[Quotas]: ...


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


class NodeLink:
    """The shards of one node.

    Attributes:
        bounds: What tenants may have on it. It is for who knows what they have on all nodes to say.
    """

    bounds = Quotas()

    def __init__(self, spread: Spread, node: Node, layout: Layout) -> None:
        self.shards = [one for one in spread.shards if layout.node_of(slot_of(one)) == node]
        self.numbers = [one.keys.number for one in self.shards]
        self.names: EntryNames = _Names(spread.names, self.numbers)

    @asking_nobody
    def quotas(self) -> Quotas:
        """What tenants may have on this node."""
        return self.bounds
