"""What was so at another machine a moment ago is trusted by a clock that does not stand still while this one sleeps."""

import time
from types import ModuleType

import pytest

from stoker.cache import cold_move, hand_over, near, near_stream, sentinel_transport, sentinels
from stoker.cache.clock import clock


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="this system does not count its sleep apart")
def test_the_clock_counts_sleep() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= clock() <= time.clock_gettime(time.CLOCK_BOOTTIME)


@pytest.mark.parametrize(
    "module",
    [near, near_stream, hand_over, cold_move, sentinels, sentinel_transport],
    ids=lambda one: one.__name__,
)
def test_it_is_what_bounds_are_counted_by(module: ModuleType) -> None:
    """Of copies; of a source that waits with writes, or is frozen; of a primary that may have been replaced."""
    assert module.clock is clock
