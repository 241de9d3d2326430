"""Seconds that also pass while the machine sleeps: for what is trusted because it was so a moment ago elsewhere.

Where the system counts them. `time.monotonic` stands still then on Linux, which is right for waits and time-outs.
"""

import time
from collections.abc import Callable
from functools import partial


def _clock_of_this_system() -> Callable[[], float]:
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic if boottime is None else partial(time.clock_gettime, boottime)


clock = _clock_of_this_system()
