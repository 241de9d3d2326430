"""The fields of a job's record, from text to values. Another version may have written them, or another program.

For `job` and `status` only.
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from stoker.tasks.names import shown

T = TypeVar("T")
_MOST = 2**63
_MOST_MS = 250_000_000_000_000  # about the year 9892: what calendars can tell


class Damaged(ValueError):
    """A field that cannot be read; the text names it and shows what it holds."""


def read(found: Mapping[str, str | None], name: str, convert: Callable[[str], T], missing: T) -> T:
    """A field's value, or `missing` where it has none.

    Raises:
        Damaged: It holds something else.
    """
    text = found[name]
    if not text:
        return missing
    try:
        return convert(text)
    except (ValueError, RecursionError):
        raise Damaged(f"{name}={shown(text)}: must be {convert.__doc__}") from None


def needed(found: Mapping[str, str | None], name: str, convert: Callable[[str], T]) -> T:
    """The value of a field that must have one. Raises as `read`."""
    value = read(found, name, convert, None)
    if value is None:
        raise Damaged(f"{name} is missing")
    return value


def whole(text: str) -> int:
    """a whole number"""
    number = int(text)
    if abs(number) >= _MOST:
        raise ValueError
    return number


def real(text: str) -> float:
    """a number"""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError
    return number


def seconds(text: str) -> float:
    """a time in ms"""
    ms = whole(text)
    if not 0 <= ms < _MOST_MS:
        raise ValueError
    return ms / 1000


def mapping(text: str) -> dict[str, Any]:
    """a JSON object"""
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError
    return value
