"""Many keys at once, for warming: the part of `redis` that spreads batches over shards, see `batch`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

from stoker.cache import batch
from stoker.cache.backends.reading import now_ms
from stoker.cache.batch import Batch, BatchFill
from stoker.cache.codec import Codec
from stoker.cache.protocol import Name, Shard
from stoker.cache.wire import Operation

T = TypeVar("T")


class Bulk(ABC):
    """What it needs of the backend is declared here."""

    shards: list[Shard]
    _codec: Codec
    _lease_ms: int

    @abstractmethod
    def _by_shard(self, names: Sequence[Name]) -> dict[int, list[int]]: ...

    @abstractmethod
    def _of_shards(self, asked: Sequence[tuple[int, Callable[[], Operation[T]]]]) -> Operation[list[T]]: ...

    @abstractmethod
    def _refused(self, tenants: Iterable[str | None]) -> Operation[frozenset[str | None]]: ...

    @abstractmethod
    def _changing(self, names: Sequence[Name], operation: Operation[T]) -> Operation[T]: ...

    def begin_batches(self, names: Sequence[Name]) -> Operation[list[Batch] | None]:
        """Begin a batch of those of each shard, if none of the keys is there."""
        groups = self._by_shard(names) if len(self.shards) > 1 else {0: range(len(names))}
        begun = yield from self._of_shards(
            [
                (n, partial(batch.begin, self.shards[n], n, [names[i] for i in group], self._lease_ms))
                for n, group in groups.items()
            ]
        )
        batches = [one for one in begun if one is not None]
        return batches if len(batches) == len(begun) else None

    def fill_batches(self, fills: Sequence[BatchFill]) -> Operation[list[bool] | None]:
        """Store the values, those of a batch all in one round trip, as a rule; tells which were stored and live on.

        Returns:
            None: Nothing was sent; one of the values needs a look of its own, by `fill`.
        """
        tenants = {tenant_id for one in fills for tenant_id, _ in one.batch.names}
        if (yield from self._refused(tenants)):
            return None
        now = now_ms()
        asked: list[tuple[int, Callable[[], Operation[list[bool]]]]] = []
        for one in fills:
            payloads = self._codec.encode_all(one.values)
            if payloads is None:
                return None
            number = one.batch.shard
            asked.append((number, partial(batch.fill, self.shards[number], one, payloads, now)))
        names = [name for one in fills for name in one.batch.names]
        return [ok for part in (yield from self._changing(names, self._of_shards(asked))) for ok in part]
