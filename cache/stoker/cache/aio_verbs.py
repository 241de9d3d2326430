"""The long verbs of `AsyncCache`: `warm`, `sweep`, `evict`, `rebalance`, `reshard`, `matching`. For `aio`."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from stoker.cache.aio_transport import AioTransport
from stoker.cache.balance import RebalancePlan
from stoker.cache.core import Core
from stoker.cache.evict import EvictReport
from stoker.cache.loop import Loop
from stoker.cache.matching import Matching
from stoker.cache.programs import once
from stoker.cache.rebalance import RebalanceReport
from stoker.cache.reshard import Change, ReshardReport
from stoker.cache.steps import Cursor, Step
from stoker.cache.sweep import SweepReport
from stoker.cache.warm import Keys
from stoker.cache.warm_report import WarmReport

R = TypeVar("R")


class Here(NamedTuple):
    """What belongs to one event loop."""

    loop: Loop
    transport: AioTransport | None


class AsyncVerbs(ABC):
    """The part of `AsyncCache` that walks over many keys."""

    _core: Core

    @abstractmethod
    def _here(self) -> Here: ...

    async def warm(
        self, keys: Keys, tenant_id: str | None = None, *, batch: int = 500, lanes: int = 4
    ) -> WarmReport:
        """See `Cache.warm`; lanes are tasks."""
        return await last_report(self.warm_steps(keys, tenant_id, batch=batch, lanes=lanes))

    def warm_steps(
        self, keys: Keys, tenant_id: str | None = None, *, batch: int = 500, lanes: int = 4
    ) -> AsyncIterator[Step[WarmReport]]:
        """See `Cache.warm_steps`."""
        loop = self._here().loop
        return loop.steps(self._core.warmer(loop.under_way).steps(keys, tenant_id, batch, lanes))

    async def sweep(self) -> SweepReport:
        """See `Cache.sweep`."""
        return await last_report(self.sweep_steps())

    def sweep_steps(self, *, batch: int = 500, cursor: Cursor = None) -> AsyncIterator[Step[SweepReport]]:
        """See `Cache.sweep_steps`."""
        return self._here().loop.steps(self._core.backend.sweep_steps(batch, cursor))

    async def evict(self, *, target_bytes: int | None = None) -> EvictReport:
        """See `Cache.evict`."""
        return await last_report(self.evict_steps(target_bytes=target_bytes))

    def evict_steps(
        self, *, target_bytes: int | None = None, batch: int = 500, cursor: Cursor = None, stay: float = 0.0
    ) -> AsyncIterator[Step[EvictReport]]:
        """See `Cache.evict_steps`."""
        return self._here().loop.steps(self._core.evict_steps(target_bytes, batch, cursor, stay))

    async def reshard(
        self,
        num_shards: int | None = None,
        *,
        pin: Mapping[str, int] | None = None,
        unpin: Iterable[str] = (),
        function: bool = False,
    ) -> ReshardReport:
        """See `Cache.reshard`."""
        change = Change(num_shards, dict(pin or {}), tuple(unpin), function)
        return await last_report(self.reshard_steps(change))

    def reshard_steps(
        self, change: Change, *, batch: int = 500, cursor: Cursor = None
    ) -> AsyncIterator[Step[ReshardReport]]:
        """See `Cache.reshard_steps`."""
        return self._here().loop.steps(self._core.reshard_steps(change, batch, cursor))

    async def plan_rebalance(
        self, *, by: str = "keys", weights: Mapping[str, float] | None = None
    ) -> RebalancePlan:
        """See `Cache.plan_rebalance`."""
        return await self._here().loop.perform(
            once(self._core.on_cluster().plan_rebalance(by, weights or {}))
        )

    async def rebalance(
        self, *, by: str = "keys", weights: Mapping[str, float] | None = None
    ) -> RebalanceReport:
        """See `Cache.rebalance`."""
        return await last_report(self.rebalance_steps(by=by, weights=weights))

    def rebalance_steps(
        self, *, by: str = "keys", weights: Mapping[str, float] | None = None, cursor: Cursor = None
    ) -> AsyncIterator[Step[RebalanceReport]]:
        """See `Cache.rebalance_steps`."""
        return self._here().loop.steps(self._core.on_cluster().rebalance_steps(by, weights or {}, cursor))

    async def stop_rebalance(self, cursor: dict[str, Any]) -> None:
        """See `Cache.stop_rebalance`."""
        await self._here().loop.perform(self._core.on_cluster().stop_rebalance(cursor))

    async def matching(
        self, pattern: str | None = None, tags: Iterable[str] = (), tenant_id: str | None = None
    ) -> Matching:
        """See `Cache.matching`."""
        return await self._here().loop.perform(self._core.matching(pattern, tags, tenant_id))


async def last_report(steps: AsyncIterator[Step[R]]) -> R:
    """Take all steps."""
    report: R | None = None
    async for step in steps:
        report = step.report
    assert report is not None, "the verb took no step"
    return report
