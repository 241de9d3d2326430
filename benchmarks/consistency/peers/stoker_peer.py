"""Stoker, blocking and awaited, as README.md and docs/design.md describe it.

It promises: if an invalidation was acknowledged before a read began, the read is not served a value whose load began
before that invalidation. Reads go on without a server; whatever forgets raises unless the server confirmed it.
"""

from collections.abc import Awaitable

from benchmarks.consistency.peer import LOCK_S, Change, Item, Load, Peer, Value
from stoker.cache import AsyncCache, Cache, CacheConfig


def _config(url: str, ttl: int) -> CacheConfig:
    return CacheConfig(backend="redis", redis_url=url, default_ttl=ttl, lease=LOCK_S)


class Stoker(Peer):
    """Blocks."""

    def __init__(self, url: str, ttl: int) -> None:
        self._cache = Cache(_config(url, ttl))

    def read(self, item: Item, load: Load) -> Value:
        got: Value = self._cache.get_or_load(item.key, load.now, item.tenant, tags=[item.tag])
        return got

    def forget_keys(self, change: Change) -> None:
        for item in change.items:
            self._cache.delete(item.key, item.tenant)

    def forget_tag(self, change: Change) -> None:
        self._cache.invalidate_tags([change.tag], change.tenant)

    def forget_pattern(self, change: Change) -> None:
        self._cache.invalidate_pattern(change.pattern, change.tenant)

    def forget_tenant(self, change: Change) -> None:
        self._cache.invalidate_tenant(change.tenant)


class AsyncStoker(Peer):
    """Awaited."""

    def __init__(self, url: str, ttl: int) -> None:
        self._cache = AsyncCache(_config(url, ttl))

    def read(self, item: Item, load: Load) -> Awaitable[Value]:
        return self._cache.get_or_load(item.key, load.later, item.tenant, tags=[item.tag])

    async def forget_keys(self, change: Change) -> None:
        for item in change.items:
            await self._cache.delete(item.key, item.tenant)

    def forget_tag(self, change: Change) -> Awaitable[None]:
        return self._cache.invalidate_tags([change.tag], change.tenant)

    def forget_pattern(self, change: Change) -> Awaitable[None]:
        return self._cache.invalidate_pattern(change.pattern, change.tenant)

    def forget_tenant(self, change: Change) -> Awaitable[None]:
        return self._cache.invalidate_tenant(change.tenant)
