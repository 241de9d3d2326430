"""The cache: the path of every request. Checks what comes in, counts, and hands over to a backend.

Loads under way are `loading`'s, warming, sweeping and eviction are the files of those
names. Nothing here knows Redis commands, Celery or settings from the environment.
"""

import logging
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self, TypeVar

from stoker.cache import invalidate, transport
from stoker.cache.backends import Backend, Write
from stoker.cache.backends.memory import MemoryBackend
from stoker.cache.backends.redis import RedisBackend
from stoker.cache.bans import Rule
from stoker.cache.cached import CachedDecorator, cached_by
from stoker.cache.codec import check_type
from stoker.cache.errors import (
    CacheUnavailable,
    ConfigError,
    InvalidationNotAcknowledged,
    InvalidName,
)
from stoker.cache.flight import Hit
from stoker.cache.loaders import Registry, default_registry
from stoker.cache.loading import Loading
from stoker.cache.options import CacheConfig, Hooks, Seconds, ttl_ms
from stoker.cache.requests import Request, Requests, Token
from stoker.cache.stats import CacheStats, Counters
from stoker.cache.tenancy import check_key, check_tags
from stoker.cache.traffic import Traffic
from stoker.cache.verbs import Verbs

R = TypeVar("R")
log = logging.getLogger(__name__)


class Cache(Verbs):
    """A cache in this process or on Redis, with the same semantics.

    Threads may share one; a forked child may go on with its parent's (it opens connections of its own). The
    constructor does not connect. Reads never fail for want of a server: `get` misses, `get_or_load` loads. What
    changes something raises `InvalidationNotAcknowledged` unless the server confirmed it.

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
        self.config = config or CacheConfig()
        self._hooks = hooks or Hooks()
        self._registry = registry
        self._counters = Counters()
        self._requests = Requests(self.config, registry)
        self._backend: Backend
        if self.config.backend == "memory":
            self._backend = MemoryBackend(self.config, self._counters)
        else:
            self._backend = RedisBackend(self.config, self._counters, self._tell)
        self._traffic = Traffic(self._backend.add_traffic if self.backend == "redis" else None)
        self._loading = Loading(self.config, self._backend, self._counters)
        _CACHES.add(self)

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
        check_key(key)
        if type is not None:
            check_type(type)
        hit = self._read(tenant_id, key, type)
        return default if hit is None else hit.value

    def _read(self, tenant_id: str | None, key: str, type: Any) -> Hit | None:
        try:
            hit = self._backend.read(tenant_id, key, type)
        except CacheUnavailable as error:
            self._unavailable(error)
            return None
        if hit is None:
            self._counters.misses += 1
        else:
            self._counters.hits += 1
            self._counters.stale_hits += hit.stale
        self._traffic.note(tenant_id, key, hit is not None)
        return hit

    def get_many(
        self, keys: Iterable[str], tenant_id: str | None = None, *, type: Any = None
    ) -> dict[str, Any]:
        """The values of those keys that have one, in the order asked."""
        names = [check_key(key) for key in dict.fromkeys(keys)]
        if type is not None:
            check_type(type)
        try:
            hits = self._backend.read_many(tenant_id, names, type)
        except CacheUnavailable as error:
            self._unavailable(error)
            return {}
        self._counters.hits += len(hits)
        self._counters.misses += len(names) - len(hits)
        self._counters.stale_hits += sum(hit.stale for hit in hits.values())
        for key in names:
            self._traffic.note(tenant_id, key, key in hits)
        return {key: hit.value for key, hit in hits.items()}

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
        seconds the value is still served, and loaded anew in the background. None from a loader is a value.

        Raises:
            LoaderError: There is neither `load` nor a registered loader, or the loader has no value for the key.
            Exception: Whatever the loader raises.
        """
        request = self._requests.read(key, load, tenant_id, ttl, soft_ttl, tags, type)
        hit = self._read(tenant_id, key, type)
        if hit is None:
            return self._loading.load_once(request)
        if hit.stale:
            self._refresh(request)
        return hit.value

    def _refresh(self, request: Request) -> None:
        if self._hooks.on_refresh is None:
            self._loading.refresh(request)
            return
        try:
            self._hooks.on_refresh(request.key, request.tenant_id)
        except Exception:
            log.exception("the on_refresh hook failed for key %r", request.key)

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
    ) -> bool:
        """Store a value that is true now; with `token` (see `snapshot`) one that was computed since.

        Returns:
            Whether it was stored. False: the server is out of memory (the old value is gone too), or the token's key
            was invalidated or set meanwhile, or its hold has ended.

        Raises:
            InvalidationNotAcknowledged: Whether it took effect is unknown.
            ValueNotSerializable: It cannot be encoded; the old value stays.
        """
        write = self._requests.write(value, ttl, soft_ttl, tags)
        if token is not None:
            return self._set_with(token, check_key(key), tenant_id, write)
        with self._acknowledged("set"):
            stored = self._backend.store(tenant_id, [(check_key(key), write)])[0]
        self._counters.sets += 1
        return stored

    def _set_with(self, token: Token, key: str, tenant_id: str | None, write: Write) -> bool:
        if (token.lease.tenant_id, token.lease.key) != (tenant_id, key):
            raise InvalidName(
                "token", token, f"was taken for another key than {key!r} of tenant {tenant_id!r}"
            )
        with self._acknowledged("set"):
            stored = self._backend.fill([(token.lease, write)])[0]
        if stored:
            self._counters.sets += 1
        else:
            self._counters.refused_fills += 1
        return stored

    def set_many(
        self,
        values: Mapping[str, Any],
        tenant_id: str | None = None,
        ttl: Seconds | None = None,
        *,
        soft_ttl: Seconds | None = None,
        tags: Iterable[str] = (),
    ) -> bool:
        """Store every value in few round trips; True if all were stored. None is, if one cannot be encoded."""
        tags = check_tags(tags)
        writes = [
            (check_key(key), self._requests.write(value, ttl, soft_ttl, tags))
            for key, value in values.items()
        ]
        if not writes:
            return True
        with self._acknowledged("set_many"):
            stored = self._backend.store(tenant_id, writes)
        self._counters.sets += len(writes)
        return all(stored)

    def snapshot(self, key: str, tenant_id: str | None = None, *, hold: Seconds = 30.0) -> Token:
        """Begin to compute a value for long: `set(token=...)` will notice what happened to the key meanwhile.

        Args:
            hold: Seconds the token lasts, at most `max_load`. Readers do not wait for it.

        Raises:
            InvalidationNotAcknowledged: The server did not confirm it.
        """
        hold_ms = ttl_ms(hold, "hold")
        if hold_ms > self.config.max_load * 1000:
            raise ConfigError("hold", hold, f"must be at most max_load={self.config.max_load:g} s")
        with self._acknowledged("snapshot"):
            return Token(self._backend.snapshot(tenant_id, check_key(key), hold_ms))

    def delete(self, key: str, tenant_id: str | None = None) -> bool:
        """Invalidate one key, and any load of it under way; tells whether there was an entry.

        Raises:
            InvalidationNotAcknowledged: The server did not confirm it.
        """
        with self._acknowledged("delete"):
            there = self._backend.delete(tenant_id, check_key(key))
        self._counters.deletes += 1
        return there

    def invalidate_pattern(self, pattern: str, tenant_id: str | None = None) -> None:
        """Invalidate every key of the tenant that the pattern names, in one round trip whatever their number.

        Raises:
            InvalidPattern: It does not follow the grammar (`*`, `?`, `[a-z]`, `[^x]`, `\\x`).
            InvalidationNotAcknowledged: The server did not confirm it.
        """
        self._ban("invalidate_pattern", [invalidate.pattern_rule(pattern, tenant_id)])

    def invalidate_tags(self, tags: Iterable[str], tenant_id: str | None = None) -> None:
        """Invalidate every entry of the tenant that carries any of the tags, in one round trip.

        Raises:
            InvalidationNotAcknowledged: The server did not confirm it.
        """
        self._ban("invalidate_tags", invalidate.tag_rules(tags, tenant_id))

    def invalidate_tenant(self, tenant_id: str | None) -> None:
        """Invalidate everything of the tenant (None: the shared key space), in one round trip.

        Raises:
            InvalidationNotAcknowledged: The server did not confirm it.
        """
        self._ban("invalidate_tenant", [invalidate.tenant_rule(tenant_id)])

    def _ban(self, operation: str, rules: list[Rule]) -> None:
        with self._acknowledged(operation):
            self._backend.ban(rules)
        self._counters.invalidations += 1

    @contextmanager
    def _acknowledged(self, operation: str) -> Iterator[None]:
        try:
            yield
        except CacheUnavailable as error:
            self._unavailable(error)
            raise InvalidationNotAcknowledged(operation, error.reason) from error

    def cached(
        self,
        template: str,
        *,
        ttl: Seconds | None = None,
        soft_ttl: Seconds | None = None,
        tags: Iterable[str] = (),
    ) -> CachedDecorator:
        """Cache a function or method by a key made from its arguments, such as `"user:{user_id}"`."""
        return cached_by(self, self._registry, template, ttl=ttl, soft_ttl=soft_ttl, tags=tuple(tags))

    # -- for diagnosis -------------------------------------------------------------------------------------

    @property
    def _store(self) -> Sized:
        """The memory backend's entries, expired and banned ones included."""
        if isinstance(self._backend, MemoryBackend):
            return self._backend.slots
        raise AttributeError("_store: a cache on Redis keeps its entries on the server; see _client")

    @property
    def _client(self) -> transport.Client:
        """A plain client of the server."""
        if isinstance(self._backend, RedisBackend):
            return transport.client(self.config)
        raise AttributeError("_client: a memory cache has no server; see _store")

    def _namespaced_key(self, key: str, tenant_id: str | None = None) -> str:
        """The name under which the key is stored."""
        return self._backend.stored_name(tenant_id, check_key(key))

    def explain(self, key: str, tenant_id: str | None = None) -> dict[str, Any]:
        """What is stored under the key, and whether it is `live`, `banned`, `outdated`, `unreadable` or `absent`."""
        return {"key": check_key(key), "tenant_id": tenant_id, **self._backend.explain(tenant_id, key)}

    def stats(self) -> CacheStats:
        """Counts of this process."""
        counts = asdict(self._counters)
        reads = counts["hits"] + counts["misses"]
        entries = len(self._backend) if self.backend == "memory" else None
        rate = counts["hits"] / reads if reads else 0.0
        return CacheStats(backend=self.backend, entries=entries, hit_rate=rate, **counts)

    def ping(self) -> bool:
        """Whether the server answers."""
        try:
            return self._backend.ping()
        except CacheUnavailable as error:
            self._unavailable(error)
            return False

    def close(self) -> None:
        """End background threads and close connections."""
        self._traffic.flush()
        self._loading.close()
        self._backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """Live entries, on the memory backend only."""
        return len(self._backend)

    def __bool__(self) -> bool:
        """A cache is a cache also when it is empty."""
        return True

    def __repr__(self) -> str:
        return f"Cache({self.config!r})"

    def _unavailable(self, error: CacheUnavailable) -> None:
        self._counters.unavailable += 1
        log.warning("the cache is not available: %s", error)

    def _tell(self, name: str, facts: Mapping[str, Any]) -> None:
        if self._hooks.on_event is not None:
            try:
                self._hooks.on_event(name, facts)
            except Exception:
                log.exception("the on_event hook failed for %s", name)


_CACHES: "weakref.WeakSet[Cache]" = weakref.WeakSet()


def _forked() -> None:
    for cache in list(_CACHES):
        cache._backend.forked()
        cache._loading.forked()


os.register_at_fork(after_in_child=_forked)
