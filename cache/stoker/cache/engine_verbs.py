"""The long verbs of `Cache`: `warm`, `sweep`, `evict`, `rebalance`, `reshard`, at once or in steps; and `matching`."""

from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any

from stoker.cache.balance import RebalancePlan
from stoker.cache.budget import Budget, Limit
from stoker.cache.core import Core
from stoker.cache.evict import EvictReport
from stoker.cache.matching import Matching
from stoker.cache.programs import once
from stoker.cache.rebalance import RebalanceReport
from stoker.cache.reshard import Change, ReshardReport
from stoker.cache.steps import Step, last_report
from stoker.cache.sweep import SweepReport
from stoker.cache.threads import Threads
from stoker.cache.warm import Keys
from stoker.cache.warm_report import WarmReport
from stoker.cache.work import Work


class Verbs:
    """The part of `Cache` that its workers run."""

    _core: Core
    _threads: Threads

    def warm(
        self, keys: Keys, tenant_id: str | None = None, *, batch: int = 500, lanes: int = 4
    ) -> WarmReport:
        """Load and store those keys that are not fresh, by their registered loaders.

        Args:
            keys: Keys of the tenant, or a dict of tenant to keys. May be an iterator of any length.
            batch: Keys of one round trip and one call of a batch loader.
            lanes: Batches that are warmed at once, each in a thread of its own.

        Raises:
            CacheUnavailable: The server cannot be asked.
        """
        return last_report(self.warm_steps(keys, tenant_id, batch=batch, lanes=lanes))

    def warm_steps(
        self,
        keys: Keys,
        tenant_id: str | None = None,
        *,
        batch: int = 500,
        lanes: int = 4,
        work: Work | None = None,
        budget: Budget | None = None,
        limits: Sequence[Limit] = (),
    ) -> Generator[Step[WarmReport], None, None]:
        """As `warm`, yielding how it stands several times a second. Closed early, it ends after the batches under way.

        Args:
            work: Where it stands and what is left, if others share it or it is to go on later; None: this warm's own.
            budget: Asked before each batch; None: as fast as the loaders are.
            limits: Of this warm, besides those of its loaders; for the budget.
        """
        warmer = self._core.warmer(self._threads.under_way, work, budget, limits)
        return self._threads.steps(warmer.steps(keys, tenant_id, batch, lanes))

    def help_warm_steps(
        self, work: Work, *, lanes: int = 4, budget: Budget | None = None, limits: Sequence[Limit] = ()
    ) -> Generator[Step[WarmReport], None, None]:
        """Warm what another warm with the same `work` deals, until nothing is left; steps as of `warm_steps`."""
        warmer = self._core.warmer(self._threads.under_way, work, budget, limits)
        return self._threads.steps(warmer.help(lanes))

    def sweep(self) -> SweepReport:
        """Unlink what invalidations have killed, and shorten the ban log.

        Raises:
            CacheUnavailable: The server cannot be asked.
        """
        return last_report(self.sweep_steps())

    def sweep_steps(
        self, *, batch: int = 500, cursor: dict[str, Any] | None = None
    ) -> Generator[Step[SweepReport], None, None]:
        """As `sweep`, yielding after each batch of names; after several, where the server itself tells what is dead."""
        return self._threads.steps(self._core.backend.sweep_steps(batch, cursor))

    def evict(self, *, target_bytes: int | None = None) -> EvictReport:
        """Make room at the least cost in loads, down to the low watermark.

        Dead entries go first, then those past their soft expiry, then what tenants have above their quotas, then those
        whose loads save least (reads times load cost by size; see docs/pressure.md). On the memory backend what its
        `eviction` names goes instead.

        Acts only above the high watermark of the server's `maxmemory`, unless `target_bytes` says where to stop. On
        the memory backend the watermarks are shares of `max_bytes`; where that is not set, of `max_size`, and
        `target_bytes` counts entries.

        Raises:
            CacheUnavailable: The server cannot be asked.
        """
        return last_report(self.evict_steps(target_bytes=target_bytes))

    def evict_steps(
        self,
        *,
        target_bytes: int | None = None,
        batch: int = 500,
        cursor: dict[str, Any] | None = None,
        stay: float = 0.0,
    ) -> Generator[Step[EvictReport], None, None]:
        """As `evict`, yielding after each batch; then it looks on for `stay` seconds, while memory rises fast."""
        return self._threads.steps(self._core.evict_steps(target_bytes, batch, cursor, stay))

    def reshard(
        self,
        num_shards: int | None = None,
        *,
        pin: Mapping[str, int] | None = None,
        unpin: Iterable[str] = (),
        function: bool = False,
    ) -> ReshardReport:
        """Have the keys of the namespace live elsewhere from now on, for all its processes. Everything begins cold.

        Processes that were told no number of shards and no pins go by the new ones at their next operation; those that
        were, and were told otherwise, are refused from then on. May be run again, whatever became of it.

        Args:
            num_shards: 1 to 1024; None: as many as there are.
            pin: Tenants, and the shard that all keys of each are to live in. Others keep their pins.
            unpin: Tenants whose keys are to be spread again.
            function: Let this process's `shard_key_func`, or that it has none, take the place of the namespace's.

        Raises:
            ConfigError: Something is out of range, or this process itself was told otherwise.
            PlacementMismatch: The namespace is open with other settings, or another function.
            CacheUnavailable: The server, or a node of the cluster, did not answer. The change may have begun, and then
                is completed by whoever comes next.
        """
        change = Change(num_shards, dict(pin or {}), tuple(unpin), function)
        return last_report(self.reshard_steps(change))

    def reshard_steps(
        self, change: Change, *, batch: int = 500, cursor: dict[str, Any] | None = None
    ) -> Generator[Step[ReshardReport], None, None]:
        """As `reshard`, yielding after each batch of keys that it looks at."""
        return self._threads.steps(self._core.reshard_steps(change, batch, cursor))

    def plan_rebalance(
        self, *, by: str = "keys", weights: Mapping[str, float] | None = None
    ) -> RebalancePlan:
        """Which slots of a cluster would have to move for each node to have its share. Moves nothing.

        Args:
            by: What counts: `keys`, `bytes` (by a sample), or `load` (CPU time, where the nodes count it by slot).
            weights: By a primary's address or id how much it is to have, in proportion to others; 1 where it is left
                out, 0 to empty it.

        Raises:
            ConfigError: The cache is not on a cluster, or a weight is of nobody.
            CacheUnavailable: A node cannot be asked.
        """
        return self._threads.perform(once(self._core.on_cluster().plan_rebalance(by, weights or {})))

    def rebalance(self, *, by: str = "keys", weights: Mapping[str, float] | None = None) -> RebalanceReport:
        """Move slots of a cluster so that each node has its share; their shards keep their hits.

        One at a time, with rests, and slower while nodes answer slowly. Where the servers cannot move a slot at once
        (before Valkey 9) its shards begin cold. Arguments and errors as of `plan_rebalance`.
        """
        return last_report(self.rebalance_steps(by=by, weights=weights))

    def rebalance_steps(
        self,
        *,
        by: str = "keys",
        weights: Mapping[str, float] | None = None,
        cursor: dict[str, Any] | None = None,
    ) -> Generator[Step[RebalanceReport], None, None]:
        """As `rebalance`, yielding after each slot. Closed early, a slot that is on its way goes on: see
        `stop_rebalance`."""
        return self._threads.steps(self._core.on_cluster().rebalance_steps(by, weights or {}, cursor))

    def stop_rebalance(self, cursor: dict[str, Any]) -> None:
        """Cancel the move that was under way after the step with this cursor. Raises CacheUnavailable."""
        self._threads.perform(self._core.on_cluster().stop_rebalance(cursor))

    def matching(
        self, pattern: str | None = None, tags: Iterable[str] = (), tenant_id: str | None = None
    ) -> Matching:
        """The live entries that an invalidation would kill: by the pattern, by any of the tags, or by either.

        With neither it is everything of the tenant; None is the shared key space. Walks over all keys.

        Raises:
            InvalidName, InvalidPattern: As of `invalidate_tags` and `invalidate_pattern`.
            CacheUnavailable: The server, or a node of the cluster, cannot be asked.
        """
        return self._threads.perform(self._core.matching(pattern, tags, tenant_id))
