"""A circuit breaker: while the server does not answer, callers are told so at once instead of waiting each.

Closed, it counts failures in a row; open, it refuses everybody, and the transport that owns it asks the server every
`reset` seconds beside its callers, until that answers: no caller's request is the probe. Threads share it without a
lock: a lost count does no harm. Only the transports use it.
"""

import logging

from stoker.cache.errors import CacheUnavailable

log = logging.getLogger(__name__)


class Breaker:
    """Opens after `failures` in a row; `reset` is the seconds between two probes."""

    def __init__(self, failures: int, reset: float) -> None:
        self.reset = reset
        self._most = failures
        self._failures = 0

    @property
    def open(self) -> bool:
        """Whether callers are refused."""
        return self._failures >= self._most

    def refusal(self) -> CacheUnavailable:
        """What callers are told."""
        return CacheUnavailable("redis", f"no answer lately; tried again every {self.reset:g} s")

    def succeeded(self) -> None:
        """The server answered."""
        if self._failures >= self._most:
            log.warning("the server answers again")
        self._failures = 0

    def failed(self) -> None:
        """It did not."""
        self._failures += 1
        if self._failures == self._most:
            log.warning("the server does not answer: reads go to the loaders, invalidations raise")
