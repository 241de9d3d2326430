"""`AsyncCache`: the programs of `core`, performed in asyncio tasks; its long verbs are in `aio_verbs`."""

import asyncio
import os
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from stoker.cache.aio_transport import AioTransport
from stoker.cache.aio_verbs import AsyncVerbs, Here
from stoker.cache.backends.cluster import ClusterBackend
from stoker.cache.cached import AsyncCachedDecorator, AsyncCachedFunction, cached_by
from stoker.cache.cluster_transport import AioClusterTransport
from stoker.cache.copies import ABSENT
from stoker.cache.core import Core
from stoker.cache.engine import Cache
from stoker.cache.errors import CacheUnavailable
from stoker.cache.flight import Hit
from stoker.cache.loaders import Registry, default_registry
from stoker.cache.loop import Loop
from stoker.cache.near_nodes import channel_of
from stoker.cache.options import CacheConfig, Hooks, Seconds
from stoker.cache.programs import Program
from stoker.cache.requests import Token
from stoker.cache.sentinel_transport import AioSentinelTransport
from stoker.cache.sentinel_url import is_sentinel
from stoker.cache.stats import CacheStats
from stoker.cache.tenancy import check_key
from stoker.cache.wire import Operation, finished
from stoker.cache.worth import EvictWhen

T = TypeVar("T")


class AsyncCache(AsyncVerbs):
    """A `Cache` to be awaited: the same methods, arguments, errors and rules.

    Tasks of one event loop may share one, and several loops may, each with connections of its own. A task that is
    cancelled leaves no reply to another one, and no lease for longer than `lease` seconds. Loaders that are coroutine
    functions run on the loop, others in threads.

    Args:
        config: Defaults to a memory cache. A `Cache` is shared: its entries, its counts, its hooks and loaders.
        hooks: As of `Cache`; called on the loop, so they must not block.
        registry: As of `Cache`.
    """

    def __init__(
        self,
        config: CacheConfig | Cache | None = None,
        *,
        hooks: Hooks | None = None,
        registry: Registry = default_registry,
    ) -> None:
        self._shares = isinstance(config, Cache)
        if isinstance(config, Cache):
            self._core = config._core
        else:
            self._core = Core(config or CacheConfig(), hooks or Hooks(), registry)
        self.config = self._core.config
        self._memory = self._core.memory
        self._peek = None if self._memory is None else self._memory.peek
        self._update = None if self._memory is None else self._memory.update
        self._near = None if self._core.near is None else self._core.near.get
        self._channel = None if self._shares else channel_of(self, self._core)
        self._by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Here] = (
            weakref.WeakKeyDictionary()
        )
        self._latest: tuple[asyncio.AbstractEventLoop, Here] | None = None
        _CACHES.add(self)

    @property
    def backend(self) -> str:
        """`"memory"` or `"redis"`."""
        return self.config.backend

    def _here(self) -> Here:
        loop = asyncio.get_running_loop()
        latest = self._latest
        if latest is not None and latest[0] is loop:
            return latest[1]
        here = self._by_loop.get(loop)
        if here is None:
            self._forget_ended()
            if self.backend == "memory":
                here = Here(Loop(self.config, _run_at_once, None), None)
            else:
                transport = _transport(self._core)
                here = Here(Loop(self.config, transport.run, self._core.backend.renew), transport)
            self._by_loop[loop] = here
        self._latest = loop, here
        return here

    def _forget_ended(self) -> None:
        """Let go of loops that ended without `close`, which what belongs to them would keep alive."""
        self._latest = None
        for ref in self._by_loop.keyrefs():
            loop = ref()
            if loop is not None and loop.is_closed():
                self._by_loop.pop(loop, None)

    async def _do(self, program: Program[T]) -> T:
        return await self._here().loop.perform(program)

    # -- reading ----------------------------------------------------------------------------------------------

    async def get(
        self, key: str, tenant_id: str | None = None, default: Any = None, *, type: Any = None
    ) -> Any:
        """See `Cache.get`."""
        peek = self._peek
        if peek is None or type is not None:
            if self._near is not None and (value := self._near(key, tenant_id, type)) is not ABSENT:
                return value
            hit = await self._read(self._here().loop, tenant_id, key, type)
            return default if hit is None else hit.value
        slot = peek(key, tenant_id)
        return self._core.missed(key, tenant_id, default) if slot is None else slot.value

    async def _read(self, loop: Loop, tenant_id: str | None, key: str, type: Any) -> Hit | None:
        core = self._core
        try:
            hit: Hit | None = await loop.run(core.look(tenant_id, key, type))
        except CacheUnavailable as error:
            core.unavailable(error)
            return None
        if core.found(tenant_id, key, hit):
            await loop.perform(core.flush_traffic())
        return hit

    async def get_many(
        self, keys: Iterable[str], tenant_id: str | None = None, *, type: Any = None
    ) -> dict[str, Any]:
        """See `Cache.get_many`."""
        if self._memory is None or type is not None:
            return await self._do(self._core.get_many(keys, tenant_id, type))
        return self._core.peek_many(self._memory, keys, tenant_id)

    async def get_or_load(
        self,
        key: str,
        load: Callable[[], Any] | None = None,
        tenant_id: str | None = None,
        ttl: Seconds | None = None,
        *,
        soft_ttl: Seconds | None = None,
        tags: Iterable[str] = (),
        type: Any = None,
    ) -> Any:
        """See `Cache.get_or_load`; `load` may be a coroutine function, or a function in a thread."""
        if self._near is not None and (value := self._near(key, tenant_id, type)) is not ABSENT:
            return value
        request = self._core.requests.read(key, load, tenant_id, ttl, soft_ttl, tags, type)
        loop = self._here().loop  # that of one that is closed meanwhile goes on to the end
        hit = await self._read(loop, *request.name, type)
        if hit is not None and not self._core.wants_refresh(hit):
            return hit.value
        return await loop.perform(self._core.load(request, loop.under_way, hit))

    async def refresh(self, key: str, tenant_id: str | None = None) -> None:
        """See `Cache.refresh`."""
        await self._do(self._core.refresh(key, tenant_id, self._here().loop.under_way))

    # -- writing ----------------------------------------------------------------------------------------------

    async def set(
        self,
        key: str,
        value: Any,
        tenant_id: str | None = None,
        ttl: Seconds | None = None,
        *,
        soft_ttl: Seconds | None = None,
        tags: Iterable[str] = (),
        token: Token | None = None,
        barrier: bool = False,
    ) -> bool:
        """See `Cache.set`."""
        plain = soft_ttl is None and token is None and not tags
        if plain and self._update is not None and self._update(key, tenant_id, value, ttl):
            return True
        write = self._core.requests.write(value, ttl, soft_ttl, tags)
        if self._memory is not None and token is None:
            return self._core.put(self._memory, key, write, tenant_id)
        if token is not None or barrier:
            return await self._do(self._core.set(key, write, tenant_id, token, barrier))
        try:
            [stored] = await self._here().loop.run(self._core.store(tenant_id, key, write))
        except CacheUnavailable as error:
            raise self._core.not_acknowledged("set", error) from error
        self._core.counters.sets += 1
        return bool(stored)

    async def set_many(
        self,
        values: Mapping[str, Any],
        tenant_id: str | None = None,
        ttl: Seconds | None = None,
        *,
        soft_ttl: Seconds | None = None,
        tags: Iterable[str] = (),
        barrier: bool = False,
    ) -> bool:
        """See `Cache.set_many`."""
        return await self._do(self._core.set_many(values, tenant_id, ttl, soft_ttl, tags, barrier))

    async def snapshot(self, key: str, tenant_id: str | None = None, *, hold: Seconds = 30.0) -> Token:
        """See `Cache.snapshot`."""
        return await self._do(self._core.snapshot(key, tenant_id, hold))

    async def delete(self, key: str, tenant_id: str | None = None, *, barrier: bool = False) -> bool:
        """See `Cache.delete`."""
        return await self._do(self._core.delete(key, tenant_id, barrier))

    async def invalidate_pattern(
        self, pattern: str, tenant_id: str | None = None, *, barrier: bool = False
    ) -> None:
        """See `Cache.invalidate_pattern`."""
        await self._do(self._core.invalidate_pattern(pattern, tenant_id, barrier))

    async def invalidate_tags(
        self, tags: Iterable[str], tenant_id: str | None = None, *, barrier: bool = False
    ) -> None:
        """See `Cache.invalidate_tags`."""
        await self._do(self._core.invalidate_tags(tags, tenant_id, barrier))

    async def invalidate_tenant(self, tenant_id: str | None, *, barrier: bool = False) -> None:
        """See `Cache.invalidate_tenant`."""
        await self._do(self._core.invalidate_tenant(tenant_id, barrier))

    def cached(
        self,
        template: str,
        *,
        ttl: Seconds | None = None,
        soft_ttl: Seconds | None = None,
        tags: Iterable[str] = (),
        evict: EvictWhen = "normal",
    ) -> AsyncCachedDecorator:
        """See `Cache.cached`; what it makes is awaited, whether the function is a coroutine function or not."""
        wrap = partial(AsyncCachedFunction[..., Any], self)
        decorator: AsyncCachedDecorator = cached_by(
            wrap, self._core.registry, template, ttl=ttl, soft_ttl=soft_ttl, tags=tuple(tags), evict=evict
        )
        return decorator

    # -- for diagnosis -----------------------------------------------------------------------------------------

    def _namespaced_key(self, key: str, tenant_id: str | None = None) -> str:
        """The name under which the key is stored."""
        return self._core.backend.stored_name(tenant_id, check_key(key))

    async def explain(self, key: str, tenant_id: str | None = None) -> dict[str, Any]:
        """See `Cache.explain`."""
        return await self._do(self._core.explain(key, tenant_id))

    def stats(self) -> CacheStats:
        """Counts of this process."""
        return self._core.stats()

    async def ping(self) -> bool:
        """Whether the server answers."""
        return await self._do(self._core.ping())

    async def close(self) -> None:
        """End the background tasks and close the connections of this event loop. What was shared stays as it is."""
        loop, transport = self._here()
        self._latest = None
        self._by_loop.pop(asyncio.get_running_loop(), None)  # who comes meanwhile begins anew
        try:
            await loop.perform(self._core.flush_traffic())
        finally:
            await loop.close()
            if transport is not None:
                await transport.close()
        if not self._shares:
            self._core.backend.close()
        if self._channel is not None:
            await asyncio.to_thread(self._channel.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __len__(self) -> int:
        """Live entries, on the memory backend only."""
        return len(self._core.backend)

    def __bool__(self) -> bool:
        """A cache is a cache also when it is empty."""
        return True

    def __repr__(self) -> str:
        return f"AsyncCache({self.config!r})"


def _transport(core: Core) -> AioTransport:
    config = core.config
    if isinstance(core.backend, ClusterBackend):
        # It has the same methods.
        return cast("AioTransport", AioClusterTransport(config, core.backend.router))
    if is_sentinel(config.redis_url):
        return cast("AioTransport", AioSentinelTransport(config))
    return AioTransport(config)


_CACHES: "weakref.WeakSet[AsyncCache]" = weakref.WeakSet()


def _forked() -> None:
    for cache in list(_CACHES):
        for here in list(cache._by_loop.values()):
            if here.transport is not None:
                here.transport.forked()


os.register_at_fork(after_in_child=_forked)


async def _run_at_once(operation: Operation[T]) -> T:
    return finished(operation)
