"""Many keys at once, for warming: the part of `redis` that spreads batches over shards, see `batch`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from operator import itemgetter
from typing import TypeVar

from stoker.cache import batch
from stoker.cache.backends.reading import now_ms
from stoker.cache.backends.space import Space, resettling
from stoker.cache.batch import Batch, BatchFill
from stoker.cache.codec import Codec
from stoker.cache.protocol import Name, Shard
from stoker.cache.shards import Resharded
from stoker.cache.wire import Operation

T = TypeVar("T")


class Bulk(ABC):
    """What it needs of the backend is declared here."""

    space: Space
    _codec: Codec
    _lease_ms: int

    @abstractmethod
    def settle(self, news: Resharded) -> None:
        """Go by the placement that the namespace has now."""
        ...

    @abstractmethod
    def _of_shards(self, asked: Sequence[tuple[Shard, Callable[[], Operation[T]]]]) -> Operation[list[T]]: ...

    @abstractmethod
    def _refused(self, tenants: Iterable[str | None]) -> Operation[frozenset[str | None]]: ...

    @abstractmethod
    def _changing(self, names: Sequence[Name], operation: Operation[T]) -> Operation[T]: ...

    @resettling
    def begin_batches(self, names: Sequence[Name]) -> Operation[list[Batch] | None]:
        """Begin a batch of those of each shard, if none of the keys is there."""
        space = self.space
        groups = space.by_shard(names) if len(space.shards) > 1 else {0: range(len(names))}
        pages = [(space.shards[n], [names[i] for i in group]) for n, group in groups.items()]
        begun = yield from self._of_shards(
            [(shard, partial(batch.begin, shard, page, self._lease_ms)) for shard, page in pages]
        )
        batches = [one for one in begun if one is not None]
        return batches if len(batches) == len(begun) else None

    def fill_batches(self, fills: Sequence[BatchFill]) -> Operation[list[bool] | None]:
        """Store the values, those of a batch all in one round trip, as a rule; tells which were stored and live on.

        Returns:
            None: Nothing was sent; one of the values needs a look of its own, by `fill`.
        """
        tenants = {tenant_id for one in fills for tenant_id in set(map(itemgetter(0), one.batch.names))}
        if (yield from self._refused(tenants)):
            return None
        now = now_ms()
        asked: list[tuple[Shard, Callable[[], Operation[list[bool]]]]] = []
        for one in fills:
            payloads = self._codec.encode_all(one.values)
            if payloads is None:
                return None
            asked.append((one.batch.shard, partial(batch.fill, one, payloads, now)))
        names = [name for one in fills for name in one.batch.names]
        try:
            return [ok for part in (yield from self._changing(names, self._of_shards(asked))) for ok in part]
        except Resharded as news:  # what was leased under another placement is not stored
            self.settle(news)
            return [False] * len(names)
