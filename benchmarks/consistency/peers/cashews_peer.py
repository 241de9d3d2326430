"""cashews on Redis, with the lock and the tags of its decorator.

- read: `@cache(ttl=, key=)`, https://github.com/Krukov/cashews#simple-cache
- lock: `lock=True`, https://github.com/Krukov/cashews#locked. `early` is for hot keys near their end, and not good at
  a cold cache, as its docstring says: with keys that are forgotten all the time the lock is the better protection
- by key: `delete`, https://github.com/Krukov/cashews#basic-api
- by tag and tenant: `delete_tags`; by pattern: `delete_match`, https://github.com/Krukov/cashews#cache-invalidation

Connection errors are suppressed by default, for reads; invalidations go through a second cache with `suppress=False`,
so that a lost one is known, https://github.com/Krukov/cashews#redis. The client-side cache is left off: it trades
freshness for speed. No promise is made about loads that race an invalidation.
"""
# pyright: reportMissingImports=false

from collections.abc import Awaitable
from typing import Any

from cashews import Cache

from benchmarks.consistency.peer import Change, Item, Load, Peer, Value


class Cashews(Peer):
    """Awaited. Reads load when there is no server."""

    def __init__(self, url: str, ttl: int) -> None:
        reading, self._strict = Cache(), Cache()
        reading.setup("redis://", address=url)
        self._strict.setup("redis://", address=url, suppress=False)
        tags = ["{tenant}:group {group}", "{tenant}"]
        decorate = reading(ttl=ttl, key="{tenant}:{kind}:{group}:{n}", tags=tags, lock=True)
        self._cached: Any = decorate(_load)

    def read(self, item: Item, load: Load) -> Awaitable[Value]:
        got: Awaitable[Value] = self._cached(item.tenant, *item.key.split(":"), load)
        return got

    async def forget_keys(self, change: Change) -> None:
        for item in change.items:
            await self._strict.delete(item.name)

    async def forget_tag(self, change: Change) -> None:
        await self._strict.delete_tags(f"{change.tenant}:{change.tag}")

    async def forget_pattern(self, change: Change) -> None:
        await self._strict.delete_match(f"{change.tenant}:{change.pattern}")

    async def forget_tenant(self, change: Change) -> None:
        await self._strict.delete_tags(change.tenant)


async def _load(tenant: str, kind: str, group: str, n: str, load: Load) -> Value:  # noqa: ARG001 (named in the key)
    return await load.later()
