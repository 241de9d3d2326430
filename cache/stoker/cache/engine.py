"""`Cache`: the programs of `core`, performed in the caller's thread."""

import atexit
import os
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sized
from functools import lru_cache, partial
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from stoker.cache import plain_client, topology, transport
from stoker.cache.backends.cluster import ClusterBackend
from stoker.cache.backends.memory import MemoryBackend
from stoker.cache.backends.redis import RedisBackend
from stoker.cache.cached import CachedDecorator, CachedFunction, cached_by
from stoker.cache.cluster_transport import ClusterTransport
from stoker.cache.copies import ABSENT
from stoker.cache.core import Core
from stoker.cache.engine_verbs import Verbs
from stoker.cache.errors import CacheUnavailable
from stoker.cache.flight import Hit
from stoker.cache.loaders import Registry, default_registry
from stoker.cache.near_nodes import channel_of
from stoker.cache.options import CacheConfig, Hooks, Seconds
from stoker.cache.requests import Token
from stoker.cache.sentinel_transport import SentinelTransport
from stoker.cache.sentinel_url import is_sentinel
from stoker.cache.stats import CacheStats
from stoker.cache.tenancy import check_key
from stoker.cache.threads import Threads
from stoker.cache.transport import Transport
from stoker.cache.wire import Operation, finished
from stoker.cache.worth import EvictWhen

T = TypeVar("T")
R = TypeVar("R")
AT_THE_END_S = 0.1
"""How long a process that ends waits for servers, about: once for each thing that is sent or awaited."""


class Cache(Verbs):
    """A cache in this process or on Redis, with the same semantics.

    Threads may share one; a forked child may go on with its parent's (it opens connections of its own). The
    constructor does not connect. Reads never fail for want of a server: `get` misses, `get_or_load` loads. What
    changes something raises `InvalidationNotAcknowledged` unless the server confirmed it. With `barrier=True` it also
    waits for `near_bound`, so that no process is served a copy of the old value once it has returned; see `near_size`.

    Args:
        config: Defaults to a memory cache.
        hooks: What to do for the surrounding program, see `Hooks`.
        registry: Where loaders are looked up; defaults to the one that `@loader` fills.
    """

    def __init__(
        self,
        config: CacheConfig | None = None,
        *,
        hooks: Hooks | None = None,
        registry: Registry = default_registry,
    ) -> None:
        self._core = Core(config or CacheConfig(), hooks or Hooks(), registry)
        self.config = self._core.config
        self._memory = self._core.memory
        self._peek = None if self._memory is None else self._memory.peek
        self._update = None if self._memory is None else self._memory.update
        self._transport = _transport(self._core)
        self._near = None if self._core.near is None else self._core.near.get
        self._channel = channel_of(self, self._core)
        run = finished if self._transport is None else self._transport.run
        self._threads = Threads(self.config, run, self._core.backend.renew if self._transport else None)
        self._do = self._threads.perform
        if self._transport is not None:
            weakref.finalize(self, self._transport.close)  # for who forgets to
            _be_told_of_the_end()
        _CACHES.add(self)

    def _run(self, operation: Operation[T]) -> T:
        return finished(operation) if self._transport is None else self._transport.run(operation)

    @property
    def backend(self) -> str:
        """`"memory"` or `"redis"`."""
        return self.config.backend

    # -- reading ----------------------------------------------------------------------------------------------

    def get(self, key: str, tenant_id: str | None = None, default: Any = None, *, type: Any = None) -> Any:
        """The key's value, or `default` if there is none.

        `type` decodes it as that type (a dataclass, a msgspec.Struct, `list[int]`, ...); one that does not fit is a
        miss. Past its soft expiry a value still is a hit.

        Raises:
            InvalidName: The key or the tenant cannot be used.
            ConfigError: Nothing stored could ever be decoded as `type`.
        """
        peek = self._peek
        if peek is None or type is not None:
            if self._near is not None and (value := self._near(key, tenant_id, type)) is not ABSENT:
                return value
            hit = self._read(tenant_id, key, type)
            return default if hit is None else hit.value
        slot = peek(key, tenant_id)
        return self._core.missed(key, tenant_id, default) if slot is None else slot.value

    def _read(self, tenant_id: str | None, key: str, type: Any) -> Hit | None:
        core = self._core
        try:
            hit: Hit | None = self._threads.run(core.look(tenant_id, key, type))
        except CacheUnavailable as error:
            core.unavailable(error)
            return None
        if core.found(tenant_id, key, hit):
            self._do(core.flush_traffic())
        return hit

    def get_many(
        self, keys: Iterable[str], tenant_id: str | None = None, *, type: Any = None
    ) -> dict[str, Any]:
        """The values of those keys that have one, in the order asked."""
        if self._memory is None or type is not None:
            return self._do(self._core.get_many(keys, tenant_id, type))
        return self._core.peek_many(self._memory, keys, tenant_id)

    def get_or_load(
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
        """The key's value; on a miss `load()` is called, once for all callers in all processes, and its value stored.

        Without `load` the registered loader of the key's template is taken, with its ttl and tags. Past `soft_ttl`
        seconds the value is still served, and loaded anew in the background. None from a loader is a value. One
        that cannot be encoded is returned, not stored, and logged as an error.

        Raises:
            LoaderError: There is neither `load` nor a registered loader, or the loader has no value for the key.
            Exception: Whatever the loader raises.
        """
        if self._near is not None and (value := self._near(key, tenant_id, type)) is not ABSENT:
            return value
        request = self._core.requests.read(key, load, tenant_id, ttl, soft_ttl, tags, type)
        hit = self._read(*request.name, type)
        if hit is not None and not self._core.wants_refresh(hit):
            return hit.value
        return self._do(self._core.load(request, self._threads.under_way, hit))

    def refresh(self, key: str, tenant_id: str | None = None) -> None:
        """Load the key's value anew by its registered loader; until that is stored the old one is served.

        Raises:
            LoaderError: No loader is registered for the key, or it has no value.
            Exception: Whatever the loader raises; the old value stays.
        """
        self._do(self._core.refresh(key, tenant_id, self._threads.under_way))

    # -- writing ----------------------------------------------------------------------------------------------

    def set(
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
        """Store a value that is true now; with `token` (see `snapshot`) one that was computed since.

        Returns:
            Whether it was stored. False: the server is out of memory or the tenant above its hard quota (the old value
            is gone too); or the token's key was invalidated or set meanwhile, or its hold has ended.

        Raises:
            InvalidationNotAcknowledged: Whether it took effect is unknown.
            ValueNotSerializable: It cannot be encoded; the old value stays.
        """
        plain = soft_ttl is None and token is None and not tags
        if plain and self._update is not None and self._update(key, tenant_id, value, ttl):
            return True
        write = self._core.requests.write(value, ttl, soft_ttl, tags)
        if self._memory is not None and token is None:
            return self._core.put(self._memory, key, write, tenant_id)
        if token is not None or barrier:
            return self._do(self._core.set(key, write, tenant_id, token, barrier))
        try:
            [stored] = self._threads.run(self._core.store(tenant_id, key, write))
        except CacheUnavailable as error:
            raise self._core.not_acknowledged("set", error) from error
        self._core.counters.sets += 1
        return bool(stored)

    def set_many(
        self,
        values: Mapping[str, Any],
        tenant_id: str | None = None,
        ttl: Seconds | None = None,
        *,
        soft_ttl: Seconds | None = None,
        tags: Iterable[str] = (),
        barrier: bool = False,
    ) -> bool:
        """Store every value in few round trips; True if all were stored. None is, if one cannot be encoded."""
        return self._do(self._core.set_many(values, tenant_id, ttl, soft_ttl, tags, barrier))

    def snapshot(self, key: str, tenant_id: str | None = None, *, hold: Seconds = 30.0) -> Token:
        """Begin to compute a value for long: `set(token=...)` will notice what happened to the key meanwhile.

        Args:
            hold: Seconds the token lasts, at most `max_load`. Readers do not wait for it.

        Raises:
            InvalidationNotAcknowledged: The server did not confirm it.
        """
        return self._do(self._core.snapshot(key, tenant_id, hold))

    def delete(self, key: str, tenant_id: str | None = None, *, barrier: bool = False) -> bool:
        """Invalidate one key, and any load of it under way; tells whether there was an entry.

        Raises:
            InvalidationNotAcknowledged: The server did not confirm it.
        """
        return self._do(self._core.delete(key, tenant_id, barrier))

    def invalidate_pattern(
        self, pattern: str, tenant_id: str | None = None, *, barrier: bool = False
    ) -> None:
        """Invalidate every key of the tenant that the pattern names, in one round trip whatever their number.

        Raises:
            InvalidPattern: It does not follow the grammar (`*`, `?`, `[a-z]`, `[^x]`, `\\x`).
            InvalidationNotAcknowledged: The server did not confirm it.
        """
        self._do(self._core.invalidate_pattern(pattern, tenant_id, barrier))

    def invalidate_tags(
        self, tags: Iterable[str], tenant_id: str | None = None, *, barrier: bool = False
    ) -> None:
        """Invalidate every entry of the tenant that carries any of the tags, in one round trip.

        Raises:
            InvalidationNotAcknowledged: The server did not confirm it.
        """
        self._do(self._core.invalidate_tags(tags, tenant_id, barrier))

    def invalidate_tenant(self, tenant_id: str | None, *, barrier: bool = False) -> None:
        """Invalidate everything of the tenant (None: the shared key space), in one round trip.

        Raises:
            InvalidationNotAcknowledged: The server did not confirm it.
        """
        self._do(self._core.invalidate_tenant(tenant_id, barrier))

    def cached(
        self,
        template: str,
        *,
        ttl: Seconds | None = None,
        soft_ttl: Seconds | None = None,
        tags: Iterable[str] = (),
        evict: EvictWhen = "normal",
    ) -> CachedDecorator:
        """Cache a function or method by a key made from its arguments, such as `"user:{user_id}"`."""
        wrap = partial(CachedFunction[..., Any], self)
        decorator: CachedDecorator = cached_by(
            wrap, self._core.registry, template, ttl=ttl, soft_ttl=soft_ttl, tags=tuple(tags), evict=evict
        )
        return decorator

    # -- for diagnosis -------------------------------------------------------------------------------------

    @property
    def _store(self) -> Sized:
        """The memory backend's entries, expired and banned ones included."""
        if isinstance(self._core.backend, MemoryBackend):
            return self._core.backend.slots
        raise AttributeError("_store: a cache on Redis keeps its entries on the server; see _client")

    @property
    def _client(self) -> Any:
        """A plain client of the server, or of the cluster (which connects at once)."""
        if isinstance(self._core.backend, RedisBackend):
            if is_sentinel(self.config.redis_url):
                return plain_client.of_primary(self.config)
            return topology.client(self.config) if self.config.cluster else transport.client(self.config)
        raise AttributeError("_client: a memory cache has no server; see _store")

    def _namespaced_key(self, key: str, tenant_id: str | None = None) -> str:
        """The name under which the key is stored."""
        return self._core.backend.stored_name(tenant_id, check_key(key))

    def explain(self, key: str, tenant_id: str | None = None) -> dict[str, Any]:
        """What is stored under the key, and whether it is `live`, `banned`, `outdated`, `unreadable` or `absent`."""
        return self._do(self._core.explain(key, tenant_id))

    def stats(self) -> CacheStats:
        """Counts of this process."""
        return self._core.stats()

    def ping(self) -> bool:
        """Whether the server answers."""
        return self._do(self._core.ping())

    def close(self) -> None:
        """End background threads and close connections."""
        self._do(self._core.flush_traffic())
        self._threads.close()
        self._core.backend.close()
        if self._channel is not None:
            self._channel.close()
        if self._transport is not None:
            self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """Live entries, on the memory backend only."""
        return len(self._core.backend)

    def __bool__(self) -> bool:
        """A cache is a cache also when it is empty."""
        return True

    def __repr__(self) -> str:
        return f"Cache({self.config!r})"


_CACHES: "weakref.WeakSet[Cache]" = weakref.WeakSet()


def _forked() -> None:
    for cache in list(_CACHES):
        cache._threads.forked()
        if cache._transport is not None:
            cache._transport.forked()


os.register_at_fork(after_in_child=_forked)


@lru_cache
def _be_told_of_the_end() -> None:
    """Only once there was a `finalize`: what was registered last is called first, hence while connections are open."""
    atexit.register(_count_at_the_end)


def _count_at_the_end() -> None:
    """Add what caches have counted since they last did to the fleet's, for who does not close them."""
    began = time.monotonic()
    for cache in list(_CACHES):
        if cache._transport is not None and (left := cache._core.last_traffic()) is not None:
            cache._transport.in_passing(*left, AT_THE_END_S)
            if time.monotonic() - began > AT_THE_END_S:  # of two servers that stand still one is waited for
                return


def _transport(core: Core) -> Transport | None:
    config = core.config
    if config.backend == "memory":
        return None
    if isinstance(core.backend, ClusterBackend):
        return cast("Transport", ClusterTransport(config, core.backend.router))  # which has the same methods
    if is_sentinel(config.redis_url):
        return cast("Transport", SentinelTransport(config))
    return Transport(config)
