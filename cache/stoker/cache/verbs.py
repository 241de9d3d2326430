"""The long verbs of a cache: warm, sweep, evict; each in one call, or in steps for whoever shows progress.

What they mean is in the files of those names; jobs iterate over the steps.
"""

from collections.abc import Iterator
from typing import Any, TypeVar

from stoker.cache.backends import Backend
from stoker.cache.errors import ConfigError
from stoker.cache.evict import EvictReport
from stoker.cache.loaders import Registry
from stoker.cache.loading import Loading
from stoker.cache.options import CacheConfig
from stoker.cache.requests import Requests
from stoker.cache.steps import Step
from stoker.cache.sweep import SweepReport
from stoker.cache.warm import Keys, Warmer, WarmReport

R = TypeVar("R")


class Verbs:
    """What `Cache` does for its own upkeep."""

    config: CacheConfig
    _backend: Backend
    _loading: Loading
    _registry: Registry
    _requests: Requests

    def warm(self, keys: Keys, tenant_id: str | None = None, *, batch: int = 500) -> WarmReport:
        """Load and store those keys that are not fresh, by their registered loaders.

        Args:
            keys: Keys of the tenant, or a dict of tenant to keys. May be an iterator of any length.
            batch: Keys of one round trip and one call of a batch loader.

        Raises:
            CacheUnavailable: The server cannot be asked.
        """
        return _last(self.warm_steps(keys, tenant_id, batch=batch))

    def warm_steps(
        self,
        keys: Keys,
        tenant_id: str | None = None,
        *,
        batch: int = 500,
        cursor: dict[str, Any] | None = None,
    ) -> Iterator[Step[WarmReport]]:
        """As `warm`, yielding after each batch; `cursor` of an earlier step skips what it had done."""
        warmer = Warmer(
            self._backend, self._registry, self._loading.keeper, self._requests.lifetimes, self.config.lease
        )
        return warmer.steps(keys, tenant_id, batch, cursor)

    def sweep(self) -> SweepReport:
        """Unlink what invalidations have killed, and shorten the ban log.

        Raises:
            CacheUnavailable: The server cannot be asked.
        """
        return _last(self.sweep_steps())

    def sweep_steps(
        self, *, batch: int = 500, cursor: dict[str, Any] | None = None
    ) -> Iterator[Step[SweepReport]]:
        """As `sweep`, yielding after each batch."""
        return self._backend.sweep_steps(batch, cursor)

    def evict(self, *, target_bytes: int | None = None) -> EvictReport:
        """Drop dead entries, then those past their soft expiry, then the longest unread, down to the low watermark.

        Acts only above the high watermark of the server's `maxmemory`, unless `target_bytes` says where to stop. On
        the memory backend the watermarks are shares of `max_size` and `target_bytes` counts entries.

        Raises:
            CacheUnavailable: The server cannot be asked.
        """
        return _last(self.evict_steps(target_bytes=target_bytes))

    def evict_steps(
        self, *, target_bytes: int | None = None, batch: int = 500, cursor: dict[str, Any] | None = None
    ) -> Iterator[Step[EvictReport]]:
        """As `evict`, yielding after each batch."""
        if target_bytes is not None and target_bytes < 0:
            raise ConfigError("target_bytes", target_bytes, "must not be negative")
        return self._backend.evict_steps(target_bytes, batch, cursor)


def _last(steps: Iterator[Step[R]]) -> R:
    *_, last = steps
    return last.report
