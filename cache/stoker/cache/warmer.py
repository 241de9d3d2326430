"""`CacheWarmer`: warms a list of keys and functions, from an asyncio program. `Cache.warm` is what workers use."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from msgspec.structs import replace as replace_fields

from stoker.cache.backends import Write
from stoker.cache.engine import Cache
from stoker.cache.errors import CacheUnavailable
from stoker.cache.protocol import Busy, Lease
from stoker.cache.tenancy import check_key
from stoker.cache.warm_report import COUNTS, MOST_ERRORS, WarmReport

WarmFunction = Callable[[], tuple[str, Any] | Awaitable[tuple[str, Any]]]
"""Returns the key and its value; sync functions run in a thread."""


@dataclass(frozen=True, slots=True)
class CacheWarmingConfig:
    """What a warmer warms.

    Attributes:
        enabled: Whether `warm_cache` does anything.
        warm_on_startup: Whether whoever starts the program shall call `warm_cache`.
        warm_keys: Keys that their registered loaders load, or that `add_warm_key` gives functions.
        warm_functions: Functions that return a key and its value.
    """

    enabled: bool = True
    warm_on_startup: bool = True
    warm_keys: Sequence[str] = ()
    warm_functions: Sequence[WarmFunction] = ()


class CacheWarmer:
    """Warms one cache.

    Attributes:
        warmed_keys: Keys that the last `warm_cache` stored or found fresh.
        errors: Key (or function name) to message, of the last `warm_cache`.
    """

    def __init__(self, cache: Cache, config: CacheWarmingConfig | None = None) -> None:
        self.config = config or CacheWarmingConfig()
        self.warmed_keys: list[str] = []
        self.errors: dict[str, str] = {}
        self._cache = cache
        self._functions: dict[str, Callable[[], Any]] = {}
        self._learned: dict[WarmFunction, str] = {}

    def add_warm_key(self, key: str, func: Callable[[], Any]) -> None:
        """Warm the key with what the function returns, sync or async; replaces an earlier one.

        Raises:
            InvalidName: The key cannot be used.
        """
        self._functions[check_key(key)] = func

    async def warm_cache(self, tenant_id: str | None = None) -> WarmReport:
        """Load and store whatever is not fresh. One failure holds up nothing else; all are in `errors`.

        Raises:
            CacheUnavailable: The server cannot be asked.
        """
        self.warmed_keys, self.errors = [], {}
        if not self.config.enabled:
            return WarmReport()
        report = await self._warm_loaded(tenant_id)
        for key, function in self._functions.items():
            report = _plus(report, await self._warm_one(key, tenant_id, function))
        for function in self.config.warm_functions:
            report = _plus(report, await self._warm_function(function, tenant_id))
        return replace(report, errors=tuple(self.errors.items())[:MOST_ERRORS])

    async def _warm_loaded(self, tenant_id: str | None) -> WarmReport:
        keys = [key for key in dict.fromkeys(self.config.warm_keys) if key not in self._functions]
        if not keys:
            return WarmReport()
        report = await asyncio.to_thread(self._cache.warm, keys, tenant_id)
        self.errors.update(report.errors)
        there = await asyncio.to_thread(self._cache.get_many, keys, tenant_id)
        self.warmed_keys += there
        return report

    async def _warm_function(self, function: WarmFunction, tenant_id: str | None) -> WarmReport:
        """Which key a function fills is known once it has run; only what it loads under that key's lease is stored."""
        name = getattr(function, "__qualname__", repr(function))
        if function not in self._learned:
            try:
                key, _ = await _call(function)
                self._learned[function] = check_key(key)
            except Exception as error:
                return self._failed(name, error)
        learned = self._learned[function]

        async def value() -> Any:
            key, loaded = await _call(function)
            if key != learned:
                self._learned[function] = check_key(key)
                raise ValueError(
                    f"returned key {key!r}, before it was {learned!r}; it is warmed the next time"
                )
            return loaded

        return await self._warm_one(learned, tenant_id, value)

    async def _warm_one(self, key: str, tenant_id: str | None, function: Callable[[], Any]) -> WarmReport:
        backend, run = self._cache._core.backend, self._cache._run
        [(lease, hit)] = await asyncio.to_thread(run, backend.acquire([(tenant_id, key)]))
        if hit is not None and not hit.stale:
            if isinstance(lease, Lease):
                await asyncio.to_thread(run, backend.release([lease]))
            self.warmed_keys.append(key)
            return WarmReport(asked=1, fresh=1)
        if isinstance(lease, Busy):
            self.errors[key] = "somebody else is loading it"
            return WarmReport(asked=1, busy=1)
        began = time.perf_counter()
        try:
            with self._cache._threads.under_way.leases.holding([lease]):
                value = await _call(function)
                write = self._write(value, began)
                stored = (await asyncio.to_thread(run, backend.fill([(lease, write)])))[0]
        except CacheUnavailable:
            raise
        except Exception as error:
            await asyncio.to_thread(run, backend.release([lease]))
            return self._failed(key, error)
        if not stored:
            self.errors[key] = "it was invalidated or set while it was loaded"
            return WarmReport(asked=1, refused=1)
        self.warmed_keys.append(key)
        return WarmReport(asked=1, written=1)

    def _write(self, value: Any, began: float) -> Write:
        write = self._cache._core.requests.write(value, None, None, ())
        return replace_fields(write, load_us=round((time.perf_counter() - began) * 1e6))

    def _failed(self, name: str, error: Exception) -> WarmReport:
        self.errors[name] = f"{type(error).__name__}: {error}"
        return WarmReport(asked=1, failed=1)


async def _call(function: Callable[[], Any]) -> Any:
    if inspect.iscoroutinefunction(function):
        return await function()
    result = await asyncio.to_thread(function)
    return await result if inspect.isawaitable(result) else result


def _plus(one: WarmReport, other: WarmReport) -> WarmReport:
    return replace(one, **{name: getattr(one, name) + getattr(other, name) for name in ("asked", *COUNTS)})
