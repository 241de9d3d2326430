"""Waiting for what must become true, instead of sleeping for as long as it usually takes."""

import time
from collections.abc import Callable


def wait_until(true: Callable[[], object], within: float = 5.0) -> None:
    """Return once `true()` is; fail after `within` seconds."""
    deadline = time.monotonic() + within
    while not true():
        assert time.monotonic() < deadline, f"not true within {within} s"
        time.sleep(0.002)
