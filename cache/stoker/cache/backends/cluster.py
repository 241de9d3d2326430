"""Entries on a Redis or Valkey Cluster: each shard's keys have one slot, hence are on one node.

What a shard is asked, and what becomes of its answers, is as on one server (`backends.redis`); here is only which
shards are asked. Verbs that walk over all keys are in `cluster_verbs`.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, TypeVar

from redis.crc import key_slot

from stoker.cache import cluster_map, cluster_pressure, cluster_verbs, rebalance, shard_weights, traffic
from stoker.cache.backends import Values
from stoker.cache.backends.pages import PAGE
from stoker.cache.backends.reading import now_ms, values_of
from stoker.cache.backends.redis import RedisBackend
from stoker.cache.backends.space import Space, resettled, resettling
from stoker.cache.balance import RebalancePlan
from stoker.cache.bans import Rule
from stoker.cache.cluster import Router
from stoker.cache.cluster_map import ClusterShard, part_of, slot_of
from stoker.cache.control import ATTEMPTS
from stoker.cache.errors import CacheUnavailable
from stoker.cache.evict import EvictReport
from stoker.cache.flight import Hit
from stoker.cache.keys import ShardKeys
from stoker.cache.matching import Matching
from stoker.cache.parts import NotAll, Part, at_once, everywhere
from stoker.cache.pressure import Makeup, Node
from stoker.cache.programs import Program, Steps
from stoker.cache.protocol import Name, Shard
from stoker.cache.quotas import Quotas
from stoker.cache.rebalance import RebalanceReport
from stoker.cache.reshard import Tidied
from stoker.cache.shard_weights import Census
from stoker.cache.shards import CLUSTER_SHARDS, Agreement
from stoker.cache.sweep import SweepReport
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

    @cached_property
    def router(self) -> Router:
        """Of all of this process's connections: what one learns of where slots are, all know."""
        return Router()

    @property
    def slots(self) -> list[int]:
        """That each shard is in."""
        return [slot_of(shard) for shard in self.shards]

    _change_map = staticmethod(cluster_map.change_map)
    _agree = staticmethod(cluster_map.agree)
    _learn = staticmethod(cluster_map.learn)

    def tidy(self, cursors: Mapping[str, str], batch: int) -> Operation[Tidied]:
        return cluster_verbs.tidy(self.space, cursors, batch)

    def _make_shard(self, number: int, agreement: Agreement) -> Shard:
        keys = ShardKeys(self._config.namespace, number)
        return ClusterShard(keys, agreement, partial(self._cold, number), partial(self._long, number))

    def _of_shards(self, asked: Sequence[tuple[Shard, Callable[[], Operation[T]]]]) -> Operation[list[T]]:
        return at_once([part_of(shard, begin) for shard, begin in asked])

    def _one(self, shard: Shard, begin: Callable[[], Operation[T]]) -> Operation[T]:
        [result] = yield from self._of_shards([(shard, begin)])
        return result

    def _common(self, begin: Callable[[], Operation[T]]) -> Operation[T]:
        """An operation on what the namespace has one of."""
        [result] = yield from at_once((Part(key_slot(self._traffic_key), begin, "the namespace's counts"),))
        return result  # type: ignore[no-any-return]

    def _spread(
        self,
        items: Sequence[Item],
        name_of: Callable[[Item], Name],
        operation: Callable[[Shard, Sequence[Item]], Operation[list[T]]],
        most: int = PAGE,
    ) -> Operation[list[T]]:
        space = self.space
        results: list[T] = []
        for first in range(0, len(items), most * _AT_ONCE):
            batch = items[first : first + most * _AT_ONCE]
            pages = _pages(space, space.by_shard([name_of(item)[:2] for item in batch]), most)
            asked = [(shard, partial(operation, shard, [batch[i] for i in page])) for shard, page in pages]
            placed: dict[int, T] = {}
            for (_, page), found in zip(pages, (yield from self._of_shards(asked)), strict=True):
                placed.update(zip(page, found, strict=True))
            results += [placed[index] for index in range(len(batch))]
        return results

    @resettling
    def read(
        self, tenant_id: str | None, key: str, type: Any = None, left: int = ATTEMPTS
    ) -> Operation[Hit | None]:
        shard = self.space.shard_of(tenant_id, key)
        return self._one(shard, partial(self._read_in, shard, tenant_id, key, type, left))

    @resettling
    def read_many(
        self, tenant_id: str | None, keys: Sequence[str], type: Any = None
    ) -> Operation[dict[str, Hit]]:
        """Keys whose node does not answer are misses, unless none answers."""
        space = self.space
        hits: dict[str, Hit] = {}
        for first in range(0, len(keys), PAGE * _AT_ONCE):
            batch = keys[first : first + PAGE * _AT_ONCE]
            pages = _pages(space, space.keys_by_shard(tenant_id, batch), PAGE)
            asked = [
                (shard, partial(self._read_shard, shard, tenant_id, [batch[i] for i in page], type))
                for shard, page in pages
            ]
            try:
                answers = yield from self._of_shards(asked)
            except NotAll as error:
                if not error.results:
                    raise
                self._counters.unavailable += 1
                log.warning("some of the cache is not available: %s", error)
                answers = list(error.results.values())
            for found in answers:
                hits.update(found)
        return {key: hits[key] for key in keys if key in hits}

    def read_values(self, tenant_id: str | None, keys: Sequence[str], type: Any = None) -> Operation[Values]:
        return values_of((yield from self.read_many(tenant_id, keys, type)))

    def sweep_steps(self, batch: int, cursor: dict[str, Any] | None) -> Steps[SweepReport]:
        return resettled(self, lambda at: cluster_verbs.sweep_steps(self.space, batch, at), cursor)

    def evict_steps(
        self, target_bytes: int | None, batch: int, cursor: dict[str, Any] | None, stay: float
    ) -> Steps[EvictReport]:
        def evicted(at: dict[str, Any] | None) -> Steps[EvictReport]:
            return cluster_verbs.evict_steps(self.space, self._config, now_ms, target_bytes, batch, at, stay)

        return resettled(self, evicted, cursor)

    def census(self) -> Operation[Census]:
        """Which primaries there are, and whose each slot is."""
        return shard_weights.census()

    @resettling
    def plan_rebalance(self, by: str, weights: Mapping[str, float]) -> Operation[RebalancePlan]:
        """What would move to bring the nodes to their shares."""
        return rebalance.plan(self.space, by, weights)

    def rebalance_steps(
        self, by: str, weights: Mapping[str, float], cursor: dict[str, Any] | None
    ) -> Steps[RebalanceReport]:
        """Move it."""
        return resettled(self, lambda at: rebalance.rebalance_steps(self.space, by, weights, at), cursor)

    def stop_rebalance(self, cursor: dict[str, Any]) -> Program[None]:
        """End what is under way at this cursor."""
        return resettled(self, lambda _: rebalance.stop(self.space, cursor), cursor)

    def node(self) -> Operation[Node]:
        """All nodes as one."""
        return cluster_pressure.node()

    def makeup(self, wanted: int) -> Operation[Makeup]:
        return (yield from cluster_pressure.makeup((yield from self.known()), wanted))

    def tell_quotas(self, quotas: Quotas, full: Sequence[str], kept_ms: int) -> Operation[None]:
        return self._common(partial(super().tell_quotas, quotas, full, kept_ms))

    def _refused(self, tenants: Iterable[str | None]) -> Operation[frozenset[str | None]]:
        if not self._refusals.due:
            return self._refusals.among(tenants)  # with no second look at the clock: this asks no node
        try:
            return (yield from self._common(partial(super()._refused, tenants)))
        except CacheUnavailable as error:  # as on one server: who cannot be asked refuses nobody
            log.debug("whose quotas are used up is not known: %s", error)
            return frozenset()

    def entries_by_shard(self) -> Operation[dict[int, int]]:
        return (yield from cluster_verbs.count((yield from self.known()), PAGE))

    def matching(self, rules: Sequence[Rule]) -> Operation[Matching]:
        return (yield from cluster_verbs.matching((yield from self.known()), rules, PAGE))

    def usage(self) -> Operation[Usage]:
        return (yield from cluster_pressure.usage((yield from self.known())))

    def add_traffic(self, unflushed: Unflushed) -> Operation[None]:
        return self._common(partial(traffic.flush, self._traffic_key, self._samples_key, unflushed))

    def traffic(self) -> Operation[dict[Group, Counts]]:
        return self._common(partial(traffic.fleet, self._traffic_key))

    def reports(self, most: int) -> Operation[list[bytes]]:
        return self._common(partial(super().reports, most))

    def ping(self) -> Operation[bool]:
        """Whether every node that has slots answers."""
        answers = yield from everywhere(lambda _node, _layout: once(("PING",)))
        return all(answer.reply() == b"PONG" for answer in answers.values())


def _pages(space: Space, groups: Mapping[int, list[int]], most: int) -> list[tuple[Shard, list[int]]]:
    """The places of names by the shard they live in, not too many together."""
    return [
        (space.shards[n], group[at : at + most])
        for n, group in groups.items()
        for at in range(0, len(group), most)
    ]
