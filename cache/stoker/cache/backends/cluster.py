"""Entries on a Redis or Valkey Cluster: each shard's keys have one slot, hence are on one node.

What a shard is asked, and what becomes of its answers, is as on one server (`backends.redis`); here is only which
shards are asked. Verbs that walk over all keys are in `cluster_verbs`.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from redis.crc import key_slot

from stoker.cache import cluster_verbs, rebalance, shard_weights, traffic
from stoker.cache.backends.reading import now_ms
from stoker.cache.backends.redis import PAGE, RedisBackend
from stoker.cache.balance import RebalancePlan
from stoker.cache.bans import Rule, View
from stoker.cache.cluster_map import ClusterShard
from stoker.cache.evict import EvictReport
from stoker.cache.flight import Hit
from stoker.cache.keys import ShardKeys
from stoker.cache.parts import NotAll, Part, at_once, everywhere
from stoker.cache.pressure import Makeup, Node
from stoker.cache.programs import Steps
from stoker.cache.protocol import Asked, Lease, Name, Shard
from stoker.cache.quotas import Quotas
from stoker.cache.rebalance import RebalanceReport
from stoker.cache.shard_weights import Census
from stoker.cache.shards import CLUSTER_SHARDS, Agreement, Placement
from stoker.cache.sweep import SweepReport
from stoker.cache.tenancy import tenant_field
from stoker.cache.traffic import Counts, Group, Unflushed
from stoker.cache.usage import Usage
from stoker.cache.wire import Operation, once

Item = TypeVar("Item")
T = TypeVar("T")
log = logging.getLogger(__name__)
_AT_ONCE = 4
"""Pages of one round trip: they are spread over nodes."""


class ClusterBackend(RedisBackend):
    """All shards of a namespace, wherever the cluster has them. Its operations are `cluster.Router`'s to run."""

    default_shards = CLUSTER_SHARDS

    def _place(self, placement: Placement) -> None:
        super()._place(placement)
        self.slots = [key_slot(shard.keys.ctl) for shard in self.shards]
        self._common_slot = key_slot(self._traffic_key)

    def _make_shard(self, number: int, agreement: Agreement) -> Shard:
        keys = ShardKeys(self._config.namespace, number)
        return ClusterShard(keys, agreement, partial(self._cold, number), partial(self._long, number))

    def part(self, number: int, begin: Callable[[], Operation[Any]]) -> Part:
        """An operation of one shard."""
        return Part(self.slots[number], begin, f"shard {number}")

    def _number(self, tenant_id: str | None, key: str) -> int:
        return self.placement.shard_of(tenant_field(tenant_id), key)

    def _one(self, tenant_id: str | None, key: str, begin: Callable[[], Operation[T]]) -> Operation[T]:
        """An operation of the shard that the key lives in."""
        [result] = yield from at_once((self.part(self._number(tenant_id, key), begin),))
        return result  # type: ignore[no-any-return]

    def _common(self, begin: Callable[[], Operation[T]]) -> Operation[T]:
        """An operation on what the namespace has one of."""
        [result] = yield from at_once((Part(self._common_slot, begin, "the namespace's counts"),))
        return result  # type: ignore[no-any-return]

    def _spread(
        self,
        items: Sequence[Item],
        name_of: Callable[[Item], Name],
        operation: Callable[[Shard, Sequence[Item]], Operation[list[T]]],
        most: int = PAGE,
    ) -> Operation[list[T]]:
        results: list[T] = []
        for first in range(0, len(items), most * _AT_ONCE):
            batch = items[first : first + most * _AT_ONCE]
            pages = self._pages([name_of(item)[:2] for item in batch], most)
            parts = [
                self.part(n, partial(operation, self.shards[n], [batch[i] for i in page]))
                for n, page in pages
            ]
            placed: dict[int, T] = {}
            for (_, page), found in zip(pages, (yield from at_once(parts)), strict=True):
                placed.update(zip(page, found, strict=True))
            results += [placed[index] for index in range(len(batch))]
        return results

    def _pages(self, names: Sequence[Name], most: int) -> list[tuple[int, list[int]]]:
        """The places of the names by the number of their shard, not too many together."""
        groups: dict[int, list[int]] = {}
        for place, name in enumerate(names):
            groups.setdefault(self._number(*name), []).append(place)
        return [
            (n, group[at : at + most]) for n, group in groups.items() for at in range(0, len(group), most)
        ]

    def read(self, tenant_id: str | None, key: str, type: Any = None) -> Operation[Hit | None]:
        return self._one(tenant_id, key, partial(super().read, tenant_id, key, type))

    def read_many(
        self, tenant_id: str | None, keys: Sequence[str], type: Any = None
    ) -> Operation[dict[str, Hit]]:
        """Keys whose node does not answer are misses, unless none answers."""
        hits: dict[str, Hit] = {}
        for first in range(0, len(keys), PAGE * _AT_ONCE):
            batch = keys[first : first + PAGE * _AT_ONCE]
            parts = [
                self.part(
                    n, partial(self._read_pages, self.shards[n], tenant_id, [batch[i] for i in page], type)
                )
                for n, page in self._pages([(tenant_id, key) for key in batch], PAGE)
            ]
            try:
                answers = yield from at_once(parts)
            except NotAll as error:
                if not error.results:
                    raise
                self._counters.unavailable += 1
                log.warning("some of the cache is not available: %s", error)
                answers = list(error.results.values())
            for seen in (seen for answer in answers for seen in answer):
                hits.update(seen.hits())
        return {key: hits[key] for key in keys if key in hits}

    def snapshot(self, tenant_id: str | None, key: str, hold_ms: int) -> Operation[Lease]:
        return self._one(tenant_id, key, partial(super().snapshot, tenant_id, key, hold_ms))

    def ask_refresh(self, tenant_id: str | None, key: str) -> Operation[Asked]:
        return self._one(tenant_id, key, partial(super().ask_refresh, tenant_id, key))

    def refreshed(self, tenant_id: str | None, key: str) -> Operation[None]:
        return self._one(tenant_id, key, partial(super().refreshed, tenant_id, key))

    def delete(self, tenant_id: str | None, key: str) -> Operation[bool]:
        return self._one(tenant_id, key, partial(super().delete, tenant_id, key))

    def explain(self, tenant_id: str | None, key: str) -> Operation[dict[str, Any]]:
        return self._one(tenant_id, key, partial(super().explain, tenant_id, key))

    def ban(self, rules: Sequence[Rule]) -> Operation[Operation[None] | None]:
        parts = [self.part(n, partial(shard.ban, rules)) for n, shard in enumerate(self.shards)]
        lengths = yield from at_once(parts)
        return self._shorten(lengths) if any(lengths) else None

    def _shorten(self, lengths: Sequence[int]) -> Operation[None]:
        long = [(n, length) for n, length in enumerate(lengths) if length]
        yield from at_once([self.part(n, partial(self.shards[n].shorten, length)) for n, length in long])

    def sweep_steps(self, batch: int, cursor: dict[str, Any] | None) -> Steps[SweepReport]:
        return cluster_verbs.sweep_steps(self, batch, cursor)

    def evict_steps(
        self, target_bytes: int | None, batch: int, cursor: dict[str, Any] | None, stay: float
    ) -> Steps[EvictReport]:
        return cluster_verbs.evict_steps(self, self._config, now_ms, target_bytes, batch, cursor, stay)

    def census(self) -> Operation[Census]:
        """Which primaries there are, and whose each slot is."""
        return shard_weights.census()

    def plan_rebalance(self, by: str, weights: Mapping[str, float]) -> Operation[RebalancePlan]:
        """What would move to bring the nodes to their shares."""
        return rebalance.plan(self, by, weights)

    def rebalance_steps(
        self, by: str, weights: Mapping[str, float], cursor: dict[str, Any] | None
    ) -> Steps[RebalanceReport]:
        """Move it."""
        return rebalance.rebalance_steps(self, by, weights, cursor)

    def stop_rebalance(self, cursor: dict[str, Any]) -> Operation[None]:
        """End what is under way at this cursor."""
        return rebalance.stop(self, cursor)

    def node(self) -> Operation[Node]:
        """All nodes as one."""
        return cluster_verbs.node()

    def makeup(self, wanted: int) -> Operation[Makeup]:
        return cluster_verbs.makeup(self, wanted)

    def tell_quotas(self, quotas: Quotas, full: Sequence[str], kept_ms: int) -> Operation[None]:
        return self._common(partial(super().tell_quotas, quotas, full, kept_ms))

    def _refused(self, tenants: Iterable[str | None]) -> Operation[frozenset[str | None]]:
        if self._refusals.due:
            return self._common(partial(super()._refused, tenants))
        return super()._refused(tenants)

    def _of_shards(self, asked: Sequence[tuple[int, Callable[[], Operation[T]]]]) -> Operation[list[T]]:
        return at_once([self.part(number, begin) for number, begin in asked])

    def entries_by_shard(self) -> Operation[dict[int, int]]:
        return cluster_verbs.count(self, PAGE)

    def usage(self) -> Operation[Usage]:
        return cluster_verbs.usage(self)

    def add_traffic(self, unflushed: Unflushed) -> Operation[None]:
        return self._common(partial(traffic.flush, self._traffic_key, self._samples_key, unflushed))

    def traffic(self) -> Operation[dict[Group, Counts]]:
        return self._common(partial(traffic.fleet, self._traffic_key))

    def reports(self, most: int) -> Operation[list[bytes]]:
        return self._common(partial(super().reports, most))

    def views(self) -> Operation[list[View]]:
        parts = [self.part(n, shard.catch_up) for n, shard in enumerate(self.shards)]
        return at_once(parts)

    def ping(self) -> Operation[bool]:
        """Whether every node that has slots answers."""
        answers = yield from everywhere(lambda _node, _layout: once(("PING",)))
        return all(answer.reply() == b"PONG" for answer in answers.values())
