"""A circuit breaker: while the server does not answer, callers are told so at once instead of waiting each.

Closed, it counts failures in a row; open, it refuses everybody; every `reset` seconds one caller may try, and its
success closes it. Threads share it without a lock: two that try at once do no harm. Only `transport` uses it.
"""

import logging
import time
from collections.abc import Callable

from stoker.cache.errors import CacheUnavailable

log = logging.getLogger(__name__)


class Breaker:
    """Opens after `failures` in a row, tries again every `reset` seconds.

    Args:
        clock: Seconds that never go back; tests pass their own.
    """

    def __init__(self, failures: int, reset: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = failures
        self._reset = reset
        self._clock = clock
        self._failures = 0
        self._next_try = 0.0

    def check(self) -> None:
        """Pass, or be refused.

        Raises:
            CacheUnavailable: The breaker is open, and it is not this caller's turn to try.
        """
        if self._failures < self._most:
            return
        now = self._clock()
        if now < self._next_try:
            raise CacheUnavailable("redis", f"no answer lately; tried again every {self._reset:g} s")
        self._next_try = now + self._reset

    def succeeded(self) -> None:
        """The server answered."""
        if self._failures >= self._most:
            log.warning("the server answers again")
        self._failures = 0

    def failed(self) -> None:
        """It did not."""
        self._failures += 1
        self._next_try = self._clock() + self._reset
        if self._failures == self._most:
            log.warning("the server does not answer: reads go to the loaders, invalidations raise")
