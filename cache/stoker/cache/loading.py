"""The way from a miss to a value: the lease, the loader, the fill, and what is counted.

Programs for `core`: `flight` says in which order these steps are taken, `threads` and `loop` perform them.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from stoker.cache.backends import Backend, Write
from stoker.cache.chance import CHANCE
from stoker.cache.errors import CacheUnavailable, LoaderError, ValueNotSerializable
from stoker.cache.flight import Flights, Hit, load_once
from stoker.cache.leases import HeldLeases
from stoker.cache.loaders import Registry
from stoker.cache.options import CacheConfig
from stoker.cache.programs import Aside, Program, Spawn, unnoticed
from stoker.cache.protocol import Asked, Busy, Lease, Name
from stoker.cache.requests import Request
from stoker.cache.stats import Counters

log = logging.getLogger(__name__)
RETRY_S = 1.0
"""How long a key that could not be refreshed is left alone by this process."""
_MOST_REFRESHED = 10_000
"""Keys remembered as being refreshed before the old ones are forgotten."""


@dataclass(slots=True)
class UnderWay:
    """What is being loaded among callers that can wait for each other; `refreshing` holds from when a key may be
    refreshed again.
    """

    flights: Flights
    leases: HeldLeases
    refreshing: dict[Name, float]


class Loading:
    """Loads and refreshes values of one cache; `ask` asks a worker to refresh a key of a tenant."""

    def __init__(
        self,
        config: CacheConfig,
        backend: Backend,
        counters: Counters,
        registry: Registry,
        ask: Callable[[str, str | None], object] | None,
    ) -> None:
        self._config = config
        self._backend = backend
        self._counters = counters
        self._registry = registry
        self._ask = ask

    def load(self, request: Request, under_way: UnderWay, seen: Hit | None = None) -> Program[Any]:
        """The key's value, loaded by this caller or by the one it follows; `seen` is what is to be refreshed."""
        attempt = _Attempt(self._backend, self._counters, self._registry, request, under_way.leases, seen)
        return load_once(under_way.flights, attempt, self._config.max_load)

    def wants_refresh(self, hit: Hit) -> bool:
        """Whether a value should be loaded anew: it is stale, or would expire before long.

        The latter is XFetch (Vattani, Chierichetti, Lowenstein: Optimal Probabilistic Cache Stampede Prevention,
        VLDB 2015): with a chance that grows towards the expiry, and earlier the more the load costs.
        """
        if hit.stale:
            return True
        scale_ms = hit.load_us * self._config.early_refresh / 1000
        if not 0 < hit.left_ms < scale_ms * 40:  # the clocks differ; or it is less likely than 1 in e**40
            return False
        return hit.left_ms < -scale_ms * math.log(1 - CHANCE.random())

    def refresh(self, request: Request, under_way: UnderWay, seen: Hit) -> Program[None]:
        """Load a key's value anew beside the caller; once at a time, and not again soon after a failure."""
        name, now = request.name, time.monotonic()
        if under_way.refreshing.get(name, 0.0) > now:
            return
        if len(under_way.refreshing) >= _MOST_REFRESHED:
            for old, until in tuple(under_way.refreshing.items()):
                if until <= now:
                    under_way.refreshing.pop(old, None)
        under_way.refreshing[name] = (
            now + self._config.max_load
        )  # a task that is cancelled first takes nothing back
        self._counters.refreshes += 1
        yield Spawn(self._refresh(request, under_way, seen))

    def _refresh(self, request: Request, under_way: UnderWay, seen: Hit) -> Program[None]:
        found = self._registry.find(request.key)
        again_at = 0.0
        try:
            if found is not None and found[0].refresh_in == "worker" and (yield from self._asked(request)):
                again_at = time.monotonic() + self._config.lease
            else:
                yield from self.load(request, under_way, seen)
        except Exception as error:
            again_at = time.monotonic() + RETRY_S
            yield from self._failed(request, error, stale_on_error=found is None or found[0].stale_on_error)
        finally:
            if again_at:
                under_way.refreshing[request.name] = again_at
            else:
                under_way.refreshing.pop(request.name, None)

    def _asked(self, request: Request) -> Program[bool]:
        """Have a worker refresh the key; tells whether that was asked for, now or lately."""
        if self._ask is None:
            return False
        try:
            asked = yield self._backend.ask_refresh(*request.name)
            if asked is Asked.AGAIN:
                self._counters.lost_refreshes += 1
            if asked is not Asked.ALREADY:
                yield Aside(partial(self._ask, request.key, request.tenant_id))
        except Exception as error:
            log.warning(
                "no worker was asked to refresh key %r, so it is refreshed here: %s", request.key, error
            )
            return False
        return True

    def reload(self, request: Request, under_way: UnderWay) -> Program[None]:
        """Load a key's value anew, whatever is stored, while that is served."""
        yield from self.load(request, under_way, Hit(None, stale=False))
        try:
            yield self._backend.refreshed(*request.name)
        except CacheUnavailable as error:
            log.debug("the note that key %r was to be refreshed runs out by itself: %s", request.key, error)

    def _failed(self, request: Request, error: Exception, *, stale_on_error: bool) -> Program[None]:
        if stale_on_error:
            what = "the old value is served until it expires"
        else:
            what = "the old value is dropped"
            try:
                yield self._backend.delete(*request.name)
            except CacheUnavailable as unavailable:
                what = f"the old value could not be dropped: {unavailable}"
        log.error("refreshing key %r failed; %s", request.key, what, exc_info=error)


@dataclass(slots=True)
class _Attempt:
    """The steps of one load."""

    backend: Backend
    counters: Counters
    registry: Registry
    request: Request
    leases: HeldLeases
    seen: Hit | None

    @property
    def name(self) -> Name:
        return self.request.name

    def read(self) -> Program[Hit | None]:
        hit: Hit | None = yield self.backend.read(*self.request.name, self.request.type)
        return hit

    def acquire(self) -> Program[tuple[Lease | Busy, Hit | None]]:
        taken: list[tuple[Lease | Busy, Hit | None]] = yield self.backend.acquire(
            [self.request.name], self.request.type
        )
        return taken[0]

    def load(self, lease: Lease | None, begins: Callable[[], None] = unnoticed) -> Program[tuple[Any, int]]:
        try:
            with self.leases.holding([lease] if lease else []):
                value, load_us = yield from self.request.load(begins)
        except Exception:
            self.counters.load_errors += 1
            raise
        self.counters.loads += 1
        return value, load_us

    def fill(self, lease: Lease, value: Any, load_us: int) -> Program[bool]:
        request = self.request
        turn = self.registry.turn_of(request.key)
        write = Write(value, request.ttl_ms, request.soft_ms, request.tags, load_us, turn)
        try:
            [stored] = yield self.backend.fill([(lease, write)])
        except CacheUnavailable as error:
            self._unavailable(error)
            raise
        except ValueNotSerializable as error:
            log.error("a loaded value is returned but not stored: %s", error)
            yield from self.release(lease)
            stored = False
        if stored:
            self.counters.fills += 1
        else:
            self.counters.refused_fills += 1
        return bool(stored)

    def release(self, lease: Lease) -> Program[None]:
        try:
            yield self.backend.release([lease])
        except CacheUnavailable as error:
            self._unavailable(error)  # it runs out by itself

    def _unavailable(self, error: CacheUnavailable) -> None:
        self.counters.unavailable += 1
        log.warning("the cache is not available: %s", error)


def all_loading(config: CacheConfig) -> LoaderError:
    """What a caller is told whose load never got its turn."""
    return LoaderError(
        f"{config.max_loads} loads of this process went on for {config.max_load:g} s; raise max_loads, or see why the "
        "origin is slow"
    )
