"""What a cache does, without I/O: checks what comes in, counts, and asks for operations and loads.

`engine.Cache` and `aio.AsyncCache` perform these programs; no rule stands in either of them. Nothing here knows Redis
commands, Celery or settings from the environment.
"""

import logging
import os
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from stoker.cache import invalidate
from stoker.cache.backends import Backend, Write
from stoker.cache.backends.cluster import ClusterBackend
from stoker.cache.backends.memory import MemoryBackend
from stoker.cache.backends.redis import RedisBackend
from stoker.cache.bans import Rule
from stoker.cache.budget import Budget, Limit, Unlimited
from stoker.cache.codec import check_type
from stoker.cache.copies import ABSENT
from stoker.cache.errors import (
    CacheError,
    CacheUnavailable,
    ConfigError,
    InvalidationNotAcknowledged,
    InvalidName,
)
from stoker.cache.evict import EvictReport
from stoker.cache.flight import Hit
from stoker.cache.loaders import Registry
from stoker.cache.loading import Loading, UnderWay
from stoker.cache.matching import Matching
from stoker.cache.near import Near
from stoker.cache.options import CacheConfig, Hooks, Seconds, ttl_ms
from stoker.cache.pace import Pace
from stoker.cache.programs import Program, Sleep, Steps
from stoker.cache.protocol import Name
from stoker.cache.requests import Request, Requests, Token
from stoker.cache.reshard import Change, ReshardReport, reshard_steps
from stoker.cache.stats import CacheStats, Counters
from stoker.cache.tenancy import check_key, check_keys, check_tags, tenant_field
from stoker.cache.traffic import Traffic
from stoker.cache.warm import Warmer
from stoker.cache.warm_slice import Means
from stoker.cache.warm_unit import UnitWarmer
from stoker.cache.wire import Exchange, Operation
from stoker.cache.work import LocalWork, Work

T = TypeVar("T")
log = logging.getLogger(__name__)
_CLOCKS_DIFFER = 1.02
"""How much longer than the bound a barrier waits, since two machines' clocks do not run alike."""


class Core:
    """One cache; the methods are those of `Cache`, as programs."""

    def __init__(self, config: CacheConfig, hooks: Hooks, registry: Registry) -> None:
        self.config = config
        self.registry = registry
        self.counters = Counters()
        self.requests = Requests(config, registry)
        self.traffic = Traffic(shared=config.backend == "redis")
        self.memory: MemoryBackend | None = None
        """The backend, if it is in this process: what it can do at once needs no program."""
        self.near: Near | None = None
        """Copies of entries in this process, where a read is looked for first."""
        self.backend: Backend
        if config.backend == "memory":
            self.backend = self.memory = MemoryBackend(config, self.counters, traffic=self.traffic)
        else:
            backend = ClusterBackend if config.cluster else RedisBackend
            self.backend = found = backend(
                config, self.counters, self._tell, self._near_keeps, self._near_served
            )
            self.near = found.near
        self._hooks = hooks
        self._loading = Loading(config, self.backend, self.counters, registry, hooks.on_refresh)
        _CORES.add(self)

    # -- reading ----------------------------------------------------------------------------------------------

    def look(self, tenant_id: str | None, key: str, type: Any) -> Operation[Hit | None]:
        """What a read does first; `found` is to be told how it went. No program, so that it takes the least time."""
        key = check_key(key)
        if type is not None:
            check_type(type)
        return self.backend.read(tenant_id, key, type)

    def found(self, tenant_id: str | None, key: str, hit: Hit | None) -> bool:
        """Count a read. Returns whether it is time to `flush_traffic`."""
        if hit is None:
            self.counters.misses += 1
        else:
            self.counters.hits += 1
            self.counters.stale_hits += hit.stale
        return self.traffic.note(tenant_id, key, hit is not None)

    def get_many(self, keys: Iterable[str], tenant_id: str | None, type: Any) -> Program[dict[str, Any]]:
        names = check_keys(keys)
        if type is not None:
            check_type(type)
        near = {} if self.near is None else self._near_values(self.near, names, tenant_id, type)
        read = [key for key in names if key not in near] if near else names
        values: dict[str, Any] = {}
        stale = 0
        try:
            if read:
                values, stale = yield self.backend.read_values(tenant_id, read, type)
        except CacheUnavailable as error:
            self.unavailable(error)
            return near
        if len(values) < len(read):
            read = list(dict.fromkeys(read))  # a key that is asked for twice is read once
        self.counters.hits += len(values)
        self.counters.misses += len(read) - len(values)
        self.counters.stale_hits += stale
        if self.traffic.note_many(tenant_id, read, values):
            yield from self.flush_traffic()
        if not near:
            return values
        values.update(near)
        return {key: values[key] for key in names if key in values}

    def _near_values(
        self, near: Near, names: Sequence[str], tenant_id: str | None, type: Any
    ) -> dict[str, Any]:
        """Of these keys those that a copy here may be served of."""
        get, keys = near.get, dict.fromkeys(names)
        return {key: value for key in keys if (value := get(key, tenant_id, type)) is not ABSENT}

    def missed(self, key: str, tenant_id: str | None, default: Any) -> Any:
        """The answer of a `get` that memory had no entry for: only now is it of interest whether it was a name."""
        check_key(key)
        if tenant_id is not None:
            tenant_field(tenant_id)
        self.traffic.counts_of(tenant_id, key)[1] += 1
        return default

    def peek_many(self, memory: MemoryBackend, keys: Iterable[str], tenant_id: str | None) -> dict[str, Any]:
        """As `get_many`, at once."""
        found = {}
        for key in dict.fromkeys(keys):
            slot = memory.peek(key, tenant_id)
            if slot is None:
                self.missed(key, tenant_id, None)
            else:
                found[key] = slot.value
        return found

    def wants_refresh(self, hit: Hit) -> bool:
        """Whether a read with a loader that found this goes on with `load`."""
        return self._loading.wants_refresh(hit)

    def load(self, request: Request, under_way: UnderWay, hit: Hit | None) -> Program[Any]:
        """The value of a key that has none, or one to be loaded anew in the background."""
        if hit is None:
            return (yield from self._loading.load(request, under_way))
        yield from self._loading.refresh(request, under_way, hit)
        return hit.value

    def refresh(self, key: str, tenant_id: str | None, under_way: UnderWay) -> Program[None]:
        request = self.requests.read(key, None, tenant_id, None, None, (), None)
        return self._loading.reload(request, under_way)

    # -- writing ----------------------------------------------------------------------------------------------

    def store(self, tenant_id: str | None, key: str, write: Write) -> Operation[list[bool]]:
        """All that most sets do. No program, as `look` is none."""
        return self.backend.store(tenant_id, [(check_key(key), write)])

    def set(
        self, key: str, write: Write, tenant_id: str | None, token: Token | None, barrier: bool
    ) -> Program[bool]:
        if token is not None:
            stored = yield from self._set_with(token, check_key(key), tenant_id, write)
        else:
            [stored] = yield from self._acknowledged("set", self.store(tenant_id, key, write))
            self.counters.sets += 1
        yield from self._wait_for_copies(barrier)
        return stored

    def _wait_for_copies(self, barrier: bool) -> Program[None]:
        """Rule 14: wait, if that was asked for, until no process serves a copy of what was changed."""
        if barrier and self.memory is None:
            yield Sleep(self.config.near_bound * _CLOCKS_DIFFER)

    def put(self, memory: MemoryBackend, key: str, write: Write, tenant_id: str | None) -> bool:
        """As `set` without a token, at once."""
        key = check_key(key)
        stored = memory.put(tenant_id, key, write)
        self.counters.sets += 1
        return stored

    def _set_with(self, token: Token, key: str, tenant_id: str | None, write: Write) -> Program[bool]:
        if (token.lease.tenant_id, token.lease.key) != (tenant_id, key):
            raise InvalidName(
                "token", token, f"was taken for another key than {key!r} of tenant {tenant_id!r}"
            )
        [stored] = yield from self._acknowledged("set", self.backend.fill([(token.lease, write)]))
        if stored:
            self.counters.sets += 1
        else:
            self.counters.refused_fills += 1
        return stored

    def set_many(
        self,
        values: Mapping[str, Any],
        tenant_id: str | None,
        ttl: Seconds | None,
        soft_ttl: Seconds | None,
        tags: Iterable[str],
        barrier: bool,
    ) -> Program[bool]:
        tags = check_tags(tags)
        writes = [
            (check_key(key), self.requests.write(value, ttl, soft_ttl, tags)) for key, value in values.items()
        ]
        if not writes:
            return True
        stored = yield from self._acknowledged("set_many", self.backend.store(tenant_id, writes))
        self.counters.sets += len(writes)
        yield from self._wait_for_copies(barrier)
        return all(stored)

    def snapshot(self, key: str, tenant_id: str | None, hold: Seconds) -> Program[Token]:
        hold_ms = ttl_ms(hold, "hold")
        if hold_ms > self.config.max_load * 1000:
            raise ConfigError("hold", hold, f"must be at most max_load={self.config.max_load:g} s")
        operation = self.backend.snapshot(tenant_id, check_key(key), hold_ms)
        return Token((yield from self._acknowledged("snapshot", operation)))

    def delete(self, key: str, tenant_id: str | None, barrier: bool) -> Program[bool]:
        there = yield from self._acknowledged("delete", self.backend.delete(tenant_id, check_key(key)))
        self.counters.deletes += 1
        yield from self._wait_for_copies(barrier)
        return there

    def invalidate_pattern(self, pattern: str, tenant_id: str | None, barrier: bool) -> Program[None]:
        return self._ban("invalidate_pattern", [invalidate.pattern_rule(pattern, tenant_id)], barrier)

    def invalidate_tags(self, tags: Iterable[str], tenant_id: str | None, barrier: bool) -> Program[None]:
        return self._ban("invalidate_tags", invalidate.tag_rules(tags, tenant_id), barrier)

    def invalidate_tenant(self, tenant_id: str | None, barrier: bool) -> Program[None]:
        return self._ban("invalidate_tenant", [invalidate.tenant_rule(tenant_id)], barrier)

    def _ban(self, name: str, rules: list[Rule], barrier: bool) -> Program[None]:
        then = yield from self._acknowledged(name, self.backend.ban(rules))
        self.counters.invalidations += 1
        yield from self._wait_for_copies(barrier)
        if then is not None:
            yield from self._keep_short(then)

    def _keep_short(self, operation: Operation[None]) -> Program[None]:
        """The invalidation was acknowledged: what fails here is no failure of it."""
        try:
            yield operation
        except CacheError as error:
            log.warning("the ban log was not kept short: %s; one of the next invalidations sees to it", error)

    def _acknowledged(self, name: str, operation: Operation[T]) -> Program[T]:
        try:
            result: T = yield operation
        except CacheUnavailable as error:
            raise self.not_acknowledged(name, error) from error
        return result

    def not_acknowledged(self, name: str, error: CacheUnavailable) -> InvalidationNotAcknowledged:
        """What is raised where the server did not confirm a change."""
        self.unavailable(error)
        return InvalidationNotAcknowledged(name, error.reason)

    # -- the long verbs ----------------------------------------------------------------------------------------

    def warmer(
        self,
        under_way: UnderWay,
        work: Work | None = None,
        budget: Budget | None = None,
        limits: Sequence[Limit] = (),
    ) -> Warmer:
        work, budget = work or LocalWork(), budget or Unlimited()
        landed = under_way.flights.landed
        kept = self.config.lease, limits
        means = Means(
            self.backend, self.registry, under_way.leases, Pace(landed), self.requests.lifetimes, *kept
        )
        units = UnitWarmer(means, budget)
        return Warmer(work, units, self.registry, landed, limits)

    def evict_steps(
        self, target_bytes: int | None, batch: int, cursor: dict[str, Any] | None, stay: float = 0.0
    ) -> Steps[EvictReport]:
        if target_bytes is not None and target_bytes < 0:
            raise ConfigError("target_bytes", target_bytes, "must not be negative")
        return self.backend.evict_steps(target_bytes, batch, cursor, stay)

    def reshard_steps(
        self, change: Change, batch: int, cursor: dict[str, Any] | None
    ) -> Steps[ReshardReport]:
        return reshard_steps(self.backend, change, batch, cursor)

    def on_cluster(self) -> ClusterBackend:
        """The backend, if slots can be moved under it. Raises ConfigError."""
        if isinstance(self.backend, ClusterBackend):
            return self.backend
        raise ConfigError(
            "cluster",
            self.config.cluster,
            "only a cluster has slots to move; if this cache is on one, say so: STOKER_CACHE_CLUSTER=true",
        )

    # -- for diagnosis -----------------------------------------------------------------------------------------

    def explain(self, key: str, tenant_id: str | None) -> Program[dict[str, Any]]:
        facts = yield self.backend.explain(tenant_id, check_key(key))
        return {"key": key, "tenant_id": tenant_id, **facts}

    def matching(self, pattern: str | None, tags: Iterable[str], tenant_id: str | None) -> Program[Matching]:
        rules = [] if pattern is None else [invalidate.pattern_rule(pattern, tenant_id)]
        rules += invalidate.tag_rules(tags, tenant_id) if tags else []
        found: Matching = yield self.backend.matching(rules or [invalidate.tenant_rule(tenant_id)])
        return found

    def ping(self) -> Program[bool]:
        try:
            return bool((yield self.backend.ping()))
        except CacheUnavailable as error:
            self.unavailable(error)
            return False

    def flush_traffic(self) -> Program[None]:
        if self.near is not None:
            self.near.tally()
        return self.traffic.flush(self.backend.add_traffic)

    def last_traffic(self) -> tuple[bytes, Exchange] | None:
        """What a process that ends has not flushed, for `Transport.in_passing`; None: nothing."""
        if self.near is not None:
            self.near.tally()
        unflushed = self.traffic.take()
        if unflushed is None or not isinstance(self.backend, RedisBackend):
            return None
        return self.backend.last_traffic(unflushed)

    def _near_keeps(self, key: str) -> bool:
        found = self.registry.find(key)
        wanted = None if found is None else found[0].near
        return self.config.near_all if wanted is None else wanted

    def _near_served(self, name: Name, times: int) -> bool:
        return self.traffic.note(*name, hit=True, times=times)

    def stats(self) -> CacheStats:
        counts = asdict(self.counters)
        counts["hits"] += self.counters.near_hits
        if self.memory is not None:  # there a read is counted once, with its family
            families = self.traffic.totals().values()
            counts["hits"] = sum(one.hits for one in families)
            counts["misses"] = sum(one.misses for one in families)
        reads = counts["hits"] + counts["misses"]
        entries = len(self.backend) if self.config.backend == "memory" else None
        rate = counts["hits"] / reads if reads else 0.0
        near = (0, 0) if self.near is None else (len(self.near.copies), self.near.copies.bytes)
        return CacheStats(
            backend=self.config.backend,
            entries=entries,
            hit_rate=rate,
            near_entries=near[0],
            near_bytes=near[1],
            **counts,
        )

    def unavailable(self, error: CacheUnavailable) -> None:
        """Take note that a read finds nothing, since the server cannot be asked."""
        self.counters.unavailable += 1
        log.warning("the cache is not available: %s", error)

    def _tell(self, name: str, facts: Mapping[str, Any]) -> None:
        if self._hooks.on_event is not None:
            try:
                self._hooks.on_event(name, facts)
            except Exception:
                log.exception("the on_event hook failed for %s", name)


_CORES: "weakref.WeakSet[Core]" = weakref.WeakSet()


def _forked() -> None:
    for core in list(_CORES):
        core.backend.forked()


os.register_at_fork(after_in_child=_forked)
