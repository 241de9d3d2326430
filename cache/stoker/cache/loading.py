"""Performs `flight.load_once` with threads: calls loaders, keeps their leases alive, stores what they return.

The engine hands over a `Request` after a miss or a stale hit.
"""

import logging
import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from stoker.cache import flight
from stoker.cache.backends import Backend, Write
from stoker.cache.errors import CacheUnavailable
from stoker.cache.flight import Effect, Flight, Flights
from stoker.cache.leases import LeaseKeeper
from stoker.cache.options import CacheConfig
from stoker.cache.protocol import Lease, Name
from stoker.cache.requests import Request
from stoker.cache.stats import Counters

log = logging.getLogger(__name__)
_REFRESHERS = 2
"""Threads that refresh soft-expired entries in this process."""


class Loading:
    """Loads under way in this process."""

    def __init__(self, config: CacheConfig, backend: Backend, counters: Counters) -> None:
        self._config = config
        self._backend = backend
        self._counters = counters
        self.keeper = LeaseKeeper(backend.renew, config.lease, config.max_load)
        self.forked()

    def forked(self) -> None:
        """Begin without flights: those of a parent never land in its child."""
        self._flights: Flights = {}
        self._refreshers: ThreadPoolExecutor | None = None
        self._refreshing: set[Name] = set()
        self.keeper.forked()

    def load_once(self, request: Request) -> Any:
        """The key's value, loaded by this caller or by the one it follows."""
        name = request.tenant_id, request.key
        mine = Flight(threading.get_ident(), threading.Event())
        return self._perform(flight.load_once(self._flights, name, mine, self._config.max_load), request)

    def _perform(self, effects: Generator[Effect, Any, Any], request: Request) -> Any:
        """Do what the generator asks for, and hand it errors where they happen."""
        try:
            effect = next(effects)
            while True:
                try:
                    answer = self._do(effect, request)
                except BaseException as error:
                    effect = effects.throw(error)
                else:
                    effect = effects.send(answer)
        except StopIteration as stop:
            return stop.value

    def _do(self, effect: Effect, request: Request) -> Any:
        match effect:
            case flight.Load(lease):
                return self._call(request, lease)
            case flight.Acquire():
                return self._backend.acquire([(request.tenant_id, request.key)], request.type)[0]
            case flight.Fill(lease, value, load_us):
                return self._fill(lease, request, value, load_us)
            case flight.Read():
                return self._backend.read(request.tenant_id, request.key, request.type)
            case flight.Wait(other, seconds):
                other.landed.wait(seconds)
            case flight.Sleep(seconds):
                time.sleep(seconds)
            case flight.Release(lease):
                self._release(lease)
        return None

    def _call(self, request: Request, lease: Lease | None) -> tuple[Any, int]:
        began = time.perf_counter()
        try:
            with self.keeper.holding([lease] if lease else []):
                value = request.load()
        except BaseException:
            self._counters.load_errors += 1
            raise
        self._counters.loads += 1
        return value, round((time.perf_counter() - began) * 1e6)

    def _fill(self, lease: Lease, request: Request, value: Any, load_us: int) -> bool:
        write = Write(value, request.ttl_ms, request.soft_ms, request.tags, load_us)
        try:
            stored = self._backend.fill([(lease, write)])[0]
        except CacheUnavailable as error:
            self._unavailable(error)
            raise
        except Exception:
            self._release(lease)
            raise
        if stored:
            self._counters.fills += 1
        else:
            self._counters.refused_fills += 1
        return stored

    def _release(self, lease: Lease) -> None:
        try:
            self._backend.release([lease])
        except CacheUnavailable as error:
            self._unavailable(error)  # it runs out by itself

    def _unavailable(self, error: CacheUnavailable) -> None:
        self._counters.unavailable += 1
        log.warning("the cache is not available: %s", error)

    def refresh(self, request: Request) -> None:
        """Load a soft-expired entry anew in a thread of this process; once at a time for a key."""
        name = request.tenant_id, request.key
        if name in self._refreshing:
            return
        self._refreshing.add(name)
        if self._refreshers is None:
            self._refreshers = ThreadPoolExecutor(_REFRESHERS, thread_name_prefix="stoker-refresh")
        self._refreshers.submit(self._refresh_now, request, name)

    def _refresh_now(self, request: Request, name: Name) -> None:
        try:
            self.load_once(request)
        except Exception:
            log.exception("refreshing key %r failed; the old value is served until it expires", request.key)
        finally:
            self._refreshing.discard(name)

    def close(self) -> None:
        """End the background threads; a refresh that has begun is waited for."""
        if self._refreshers is not None:
            self._refreshers.shutdown(wait=True, cancel_futures=True)
            self._refreshers = None
            self._refreshing.clear()
        self.keeper.close()
