"""Waiting for what must become true, instead of sleeping for as long as it usually takes."""

import time
from collections.abc import Callable
from typing import Literal, TypeVar

T = TypeVar("T")


def wait_until(
    true: Callable[[], T | Literal[False] | None], within: float = 20.0, describe: Callable[[], str] = str
) -> T:
    """Return `true()` once it is true.

    Raises:
        AssertionError: It is not after `within` seconds; the text ends with `describe()`.
    """
    deadline = time.monotonic() + within
    while not (value := true()):
        assert time.monotonic() < deadline, f"not true within {within} s. {describe()}"
        time.sleep(0.02)
    return value
