"""What callers ask for, checked: keys, tenants, lifetimes, tags, loaders. The engine acts on nothing else."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from stoker.cache.backends import Write
from stoker.cache.chance import CHANCE
from stoker.cache.codec import check_type
from stoker.cache.errors import ConfigError, LoaderError
from stoker.cache.loaders import Loader, LoadKey, Registry
from stoker.cache.options import CacheConfig, Seconds, ttl_ms
from stoker.cache.programs import Load, Program
from stoker.cache.protocol import Lease, Name
from stoker.cache.tenancy import check_key, check_tags, tenant_field

LoadProgram = Callable[[Callable[[], None]], Program[tuple[Any, int]]]
"""Takes what is to be called right before the loader is; the answer is that of `Load`."""


@dataclass(frozen=True, slots=True)
class Request:
    """One call of `get_or_load`. Lifetimes are in ms, 0 for never, and jittered."""

    key: str
    tenant_id: str | None
    load: LoadProgram
    ttl_ms: int
    soft_ms: int
    tags: tuple[str, ...]
    type: Any

    @property
    def name(self) -> Name:
        """Tenant and key."""
        return self.tenant_id, self.key


@dataclass(frozen=True, slots=True)
class Token:
    """A promise to notice: made by `snapshot` before a value is computed, given to `set` with the value."""

    lease: Lease

    def __repr__(self) -> str:
        return f"Token(key={self.lease.key!r}, tenant_id={self.lease.tenant_id!r})"


class Requests:
    """Checks and completes what callers give, by a cache's settings and the registered loaders."""

    def __init__(self, config: CacheConfig, registry: Registry) -> None:
        self._registry = registry
        self._jitter = config.ttl_jitter
        self._default_ttl_ms = 0 if config.default_ttl is None else ttl_ms(config.default_ttl)

    def read(
        self,
        key: str,
        load: Callable[[], Any] | None,
        tenant_id: str | None,
        ttl: Seconds | None,
        soft_ttl: Seconds | None,
        tags: Iterable[str],
        type: Any,
    ) -> Request:
        """A read that may load; without `load` the key's registered loader gives what was left out."""
        key = check_key(key)
        tenant_field(tenant_id)
        checked = check_tags(tags)
        if type is not None:
            check_type(type)
        how: LoadProgram
        if load is None:
            loader, args = self._loader_of(key)
            load_key = LoadKey(key, args, tenant_id)
            how = partial(_load_registered, loader, load_key)
            ttl = loader.ttl if ttl is None else ttl
            soft_ttl = loader.soft_ttl if soft_ttl is None else soft_ttl
            checked = checked or loader.tags_for(args)
            jitter = self._jitter if loader.ttl_jitter is None else loader.ttl_jitter
        else:
            how, jitter = partial(_load_given, load), self._jitter
        lifetimes = _jittered(*self._checked(ttl, soft_ttl), jitter)
        return Request(key, tenant_id, how, *lifetimes, checked, type)

    def write(self, value: Any, ttl: Seconds | None, soft_ttl: Seconds | None, tags: Iterable[str]) -> Write:
        """A value to be stored as it is, for exactly as long as the caller says."""
        hard_ms, soft_ms = self._checked(ttl, soft_ttl)
        return Write(value, hard_ms, soft_ms, check_tags(tags) if tags else (), 0)

    def lifetimes(self, loader: Loader) -> tuple[int, int]:
        """(ttl, soft ttl) in ms of a value that the loader loads now."""
        jitter = self._jitter if loader.ttl_jitter is None else loader.ttl_jitter
        return _jittered(*self._checked(loader.ttl, loader.soft_ttl), jitter)

    def _loader_of(self, key: str) -> tuple[Loader, dict[str, Any]]:
        found = self._registry.find(key)
        if found is None:
            reason = self._registry.why_not(key) or "register one with @loader, or pass load="
            raise LoaderError(f"key {key!r} has no loader: {reason}")
        return found

    def _checked(self, ttl: Seconds | None, soft_ttl: Seconds | None) -> tuple[int, int]:
        if ttl is None and soft_ttl is None:
            return self._default_ttl_ms, 0
        hard = self._default_ttl_ms if ttl is None else ttl_ms(ttl)
        soft = 0 if soft_ttl is None else ttl_ms(soft_ttl, "soft_ttl")
        if soft and hard and soft >= hard:
            raise ConfigError("soft_ttl", soft_ttl, f"must be below the ttl of {hard / 1000:g} s")
        return hard, soft


def _jittered(hard: int, soft: int, jitter: float) -> tuple[int, int]:
    """Shorter by up to that share, so that what was loaded together does not expire together."""
    share = 1 - CHANCE.random() * jitter
    return (max(1, round(hard * share)) if hard else 0, max(1, round(soft * share)) if soft else 0)


def _load_given(load: Callable[[], Any], begins: Callable[[], None]) -> Program[tuple[Any, int]]:
    value, load_us = yield Load(load, begins)
    return value, load_us


def _load_registered(loader: Loader, key: LoadKey, begins: Callable[[], None]) -> Program[tuple[Any, int]]:
    loaded = yield from loader.load([key], begins)
    if key.key in loaded.errors:
        raise loaded.errors[key.key]
    if key.key not in loaded.values:
        raise LoaderError(f"{loader.name} returned no value for key {key.key!r}")
    return loaded.values[key.key], loaded.cost_us[key.key]
