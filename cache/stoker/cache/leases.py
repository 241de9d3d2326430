"""Keeps the leases of slow loads alive: a live leader may load for up to `max_load`, a dead one blocks nobody longer.

One daemon thread a cache, started by the first load and ended when none was held for a while.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from stoker.cache.errors import CacheUnavailable
from stoker.cache.protocol import Lease

log = logging.getLogger(__name__)
_LINGER_S = 30.0


class LeaseKeeper:
    """Renews held leases every third of their time.

    Args:
        renew: Sends the renewal; may raise CacheUnavailable, which is logged: the lease then runs out by itself.
        lease: Seconds a lease lasts.
        max_load: Seconds after which a load's lease is no longer renewed.
    """

    def __init__(self, renew: Callable[[Sequence[Lease]], None], lease: float, max_load: float) -> None:
        self._renew = renew
        self._every = lease / 3
        self._max_load = max_load
        self.forked()

    def forked(self) -> None:
        """Begin without leases: those of a parent are the parent's to renew."""
        self._held: dict[object, tuple[Sequence[Lease], float]] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    @contextmanager
    def holding(self, leases: Sequence[Lease]) -> Iterator[None]:
        """Keep the leases alive inside the block, at most `max_load` seconds."""
        mark = object()
        with self._changed:
            self._held[mark] = (leases, time.monotonic() + self._max_load)
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="stoker-leases", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._changed:
                del self._held[mark]

    def _run(self) -> None:
        used_at = time.monotonic()
        while True:
            with self._changed:
                self._changed.wait(self._every)
                now = time.monotonic()
                leases = [lease for group, end in self._held.values() if now < end for lease in group]
                if self._held:
                    used_at = now
                if self._closed or now - used_at > _LINGER_S:
                    self._thread = None
                    return
            if leases:
                try:
                    self._renew(leases)
                except CacheUnavailable as error:
                    log.warning("leases of %d loads were not renewed: %s", len(leases), error)

    def close(self) -> None:
        """End the thread; leases still held run out by themselves."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=5)
        self._closed = False
