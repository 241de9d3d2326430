"""Waiting for what must become true, instead of sleeping for as long as it usually takes."""

import asyncio
import time
from collections.abc import Callable
from typing import Literal, TypeVar

T = TypeVar("T")


def wait_until(
    true: Callable[[], T | Literal[False] | None], within: float = 60.0, describe: Callable[[], str] = str
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


def within(seconds: float, call: Callable[[], T]) -> T:
    """Return what `call()` does, which lasts less than so many seconds: the first time, or one of two more.

    What holds this machine up for a moment is no fault of what is called, and does not come three times in a row.

    Raises:
        AssertionError: Each of the three lasted longer.
    """
    lasted = []
    for _ in range(3):
        began = time.monotonic()
        result = call()
        lasted.append(time.monotonic() - began)
        if lasted[-1] < seconds:
            return result
    raise AssertionError(f"each lasted {seconds} s or longer: {lasted}")


async def until(true: Callable[[], object], within: float = 60.0) -> None:
    """Let the loop's other tasks go on until `true()`.

    Raises:
        TimeoutError: It is not after `within` seconds.
    """
    async with asyncio.timeout(within):
        while not true():
            await asyncio.sleep(0.001)
