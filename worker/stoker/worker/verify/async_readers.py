"""Who reads and judges with `AsyncCache`: tasks of one event loop, some of which are cancelled at any moment.

One process runs them on asyncio, another on uvloop where that is installed.
"""

import asyncio
from importlib import import_module
from typing import Any

from stoker.cache import AsyncCache, CacheUnavailable, Hooks, InvalidationNotAcknowledged
from stoker.worker.verify.post import Desk, Post, in_threads
from stoker.worker.verify.producer import workers_refresh
from stoker.worker.verify.readers import SOFT_TTL_S, Reader, counting_copies
from stoker.worker.verify.source import TTL_S, count_loads, load_async, often_the_same, short_or_long
from stoker.worker.verify.world import KEYS, TENANTS, tag_of

TASKS = 8
CANCELLED = 0.1
"""Share of the calls that are cancelled if they last."""
LONGEST_PATIENCE_S = 0.05
_NEW = object()


def read_on_asyncio(post: Post) -> None:
    """Eight tasks on one event loop, and a thread beside them that shares their cache; workers refresh for them."""
    asyncio.run(_read(post, workers_refresh(post)))


def read_on_uvloop(post: Post) -> None:
    """As `read_on_asyncio`, on uvloop if there is one; what is stale it refreshes itself."""
    try:
        uvloop: Any = import_module("uvloop")
    except ModuleNotFoundError:
        asyncio.run(_read(post))
    else:
        uvloop.run(_read(post))


async def _read(post: Post, hooks: Hooks | None = None) -> None:
    with post.cache(hooks) as shared, counting_copies(post, shared):
        beside = asyncio.create_task(asyncio.to_thread(in_threads, post, Reader(shared).read_anything))
        async with AsyncCache(shared) as cache:
            reader = AsyncReader(cache)
            await asyncio.gather(*(_keep_at(reader, Desk.at(post, n)) for n in range(1, TASKS + 1)))
        await beside


async def _keep_at(reader: "AsyncReader", desk: Desk) -> None:
    while not desk.post.world.stopped:
        call = asyncio.create_task(reader.use(desk))
        if desk.chance.random() < CANCELLED:
            await asyncio.wait({call}, timeout=desk.chance.random() ** 2 * LONGEST_PATIENCE_S)
            call.cancel()
        try:
            await call
        except asyncio.CancelledError:
            desk.judge.add("cancelled")
        except Exception as error:  # a read never fails for want of a server: whatever it is, it is a finding
            desk.judge.error("async read", error)
        desk.count()


class AsyncReader:
    """Uses one cache and judges every answer."""

    def __init__(self, cache: AsyncCache) -> None:
        self._cache = cache

    async def use(self, desk: Desk) -> None:
        """One read, or a value computed under a snapshot."""
        chance = desk.chance
        tenant, key, kind = chance.randrange(len(TENANTS)), often_the_same(chance), chance.random()
        if kind < 0.55:
            await self._get_or_load(desk, tenant, key)
        elif kind < 0.8:
            await self._get(desk, tenant, key)
        elif kind < 0.95:
            await self._get_many(desk, tenant, chance.sample(range(len(KEYS)), 6))
        else:
            await self._compute(desk, tenant, key)

    async def _get_or_load(self, desk: Desk, tenant: int, key: int) -> None:
        world, caller, loads = desk.post.world, asyncio.current_task(), count_loads()

        async def ours() -> dict[str, Any]:
            if asyncio.current_task() is not caller:
                desk.judge.add("refreshes")
            return await load_async(world, desk.chance, tenant, key)

        kind = desk.chance.random()
        least = world.acknowledged(tenant, key)
        if kind < 0.3:
            got = await self._cache.get_or_load(KEYS[key], tenant_id=TENANTS[tenant])
        else:
            soft = SOFT_TTL_S if kind < 0.6 else None
            got = await self._cache.get_or_load(
                *(KEYS[key], ours, TENANTS[tenant], short_or_long(desk.chance)),
                soft_ttl=soft,
                tags=[tag_of(key)],
            )
        desk.judge.served("async get_or_load", tenant, key, least, got)
        desk.judge.add("reads")
        desk.judge.add("loads" if loads[0] else "hits")

    async def _get(self, desk: Desk, tenant: int, key: int) -> None:
        least = desk.post.world.acknowledged(tenant, key)
        got = await self._cache.get(KEYS[key], TENANTS[tenant], _NEW)
        desk.judge.add("reads")
        if got is not _NEW:
            desk.judge.add("hits")
            desk.judge.served("async get", tenant, key, least, got)

    async def _get_many(self, desk: Desk, tenant: int, keys: list[int]) -> None:
        least = {key: desk.post.world.acknowledged(tenant, key) for key in keys}
        got = await self._cache.get_many([KEYS[key] for key in keys], TENANTS[tenant])
        desk.judge.add("reads", len(keys))
        desk.judge.add("hits", len(got))
        for key in keys:
            if KEYS[key] in got:
                desk.judge.served("async get_many", tenant, key, least[key], got[KEYS[key]])

    async def _compute(self, desk: Desk, tenant: int, key: int) -> None:
        try:
            token = await self._cache.snapshot(KEYS[key], TENANTS[tenant], hold=1.0)
            result = await load_async(desk.post.world, desk.chance, tenant, key)
            stored = await self._cache.set(
                KEYS[key], result, TENANTS[tenant], TTL_S, tags=[tag_of(key)], token=token
            )
        except (CacheUnavailable, InvalidationNotAcknowledged):
            desk.judge.add("unavailable")
        else:
            desk.judge.add("tokens_stored" if stored else "tokens_refused")
