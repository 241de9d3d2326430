"""aiocache on Redis, with its decorator against stampedes.

- read: `cached_stampede`, https://github.com/aio-libs/aiocache/blob/v0.12.3/aiocache/decorators.py (its docstring)
- lock: its `lease=`, a `RedLock`, https://aiocache.aio-libs.org/en/latest/locking.html, where it says that this is not
  for consistency; and other processes do not wait for it
- by key: `delete`, https://aiocache.aio-libs.org/en/latest/caches.html. By tag and pattern: the keys, one by one, for
  it knows neither, nor a way to delete many
- by tenant: a namespace each, and `clear(namespace=)`, on the same page

Errors of its reads and writes are logged and the value is loaded; those of its lock and of `delete` are raised.
No promise is made about loads that race a `delete`.
"""
# pyright: reportMissingImports=false

from collections.abc import Awaitable
from typing import Any
from urllib.parse import urlsplit

from aiocache import Cache, cached_stampede
from redis.asyncio import ConnectionPool, UnixDomainSocketConnection

from benchmarks.consistency.peer import LOCK_S, Change, Item, Load, Peer, Value


class Aiocache(Peer):
    """Awaited."""

    def __init__(self, url: str, ttl: int) -> None:
        self._path = urlsplit(url).path
        self._ttl = ttl
        self._by_tenant: dict[str, Any] = {}

    def read(self, item: Item, load: Load) -> Awaitable[Value]:
        got: Awaitable[Value] = self._of(item.tenant)(item.key, load)
        return got

    async def forget_keys(self, change: Change) -> None:
        for item in change.items:
            await self._of(item.tenant).cache.delete(item.key)

    async def forget_tenant(self, change: Change) -> None:
        await self._of(change.tenant).cache.clear(namespace=change.tenant)

    def _of(self, tenant: str) -> Any:
        """The tenant's cached function, with a cache of its own."""
        if tenant not in self._by_tenant:
            decorate = cached_stampede(
                lease=LOCK_S,
                ttl=self._ttl,
                key_builder=lambda _function, key, _load: key,
                cache=Cache.REDIS,
                namespace=tenant,
                connection_pool_class=self._pool,
            )
            self._by_tenant[tenant] = decorate(_load)
        return self._by_tenant[tenant]

    def _pool(self, **options: Any) -> ConnectionPool:
        """Its Redis backend knows hosts and ports only; the server here is at a socket."""
        del options["host"], options["port"]
        return ConnectionPool(connection_class=UnixDomainSocketConnection, path=self._path, **options)


async def _load(_key: str, load: Load) -> Value:
    return await load.later()
