"""Keeps the leases of slow loads alive: a live leader may load for up to `max_load`, a dead one blocks nobody longer.

What is held is the same for threads and event loops; only who waits differs: `threads` has a daemon thread for it,
`loop` a task, each started by the first load and ended when none was held for a while.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from stoker.cache.protocol import Lease
from stoker.cache.wire import Operation

log = logging.getLogger(__name__)
Renew = Callable[[list[Lease]], Operation[None]]
"""Makes the operation that renews leases."""
LINGER_S = 30.0
"""How long a renewer waits for the next load before it ends."""


class HeldLeases:
    """The leases of loads under way.

    Args:
        lease: Seconds a lease lasts; it is renewed every third of them.
        max_load: Seconds after which a load's lease is no longer renewed.
        begin: Called when there is a lease to keep: somebody shall renew what is `due` every `every` seconds.
    """

    def __init__(self, lease: float, max_load: float, begin: Callable[[], None]) -> None:
        self.every = lease / 3
        self._max_load = max_load
        self._begin = begin
        self._held: dict[object, tuple[Iterable[Lease], float]] = {}
        self._used_at = 0.0

    @contextmanager
    def holding(self, leases: Iterable[Lease]) -> Iterator[None]:
        """Keep the leases alive inside the block, at most `max_load` seconds."""
        mark = object()
        self._used_at = time.monotonic()
        self._held[mark] = (leases, self._used_at + self._max_load)
        if leases:
            self._begin()
        try:
            yield
        finally:
            self._held.pop(mark, None)

    def due(self) -> list[Lease] | None:
        """What is to be renewed now; None if nothing was held for a while."""
        now = time.monotonic()
        held = tuple(self._held.values())
        if held:
            self._used_at = now
        elif now - self._used_at > LINGER_S:
            return None
        return [lease for group, end in held if now < end for lease in group]
