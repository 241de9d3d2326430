"""Loaders and plans of `warming`, for its workers: one whose values cost nothing, one that takes 50 ms a call."""

import os
import time
from collections.abc import Iterator

from stoker.cache import LoadKey, loader
from stoker.tasks import warm_plan

KEYS = "STOKER_TEST_KEYS"
VALUE = "x" * 200
TTL_S = 3600
CALL_S = 0.05


@loader("free:{number}", ttl=TTL_S, many=True)
def load_freely(keys: list[LoadKey]) -> dict[str, object]:
    return {key.key: VALUE for key in keys}


@loader("slow:{number}", ttl=TTL_S, many=True)
def load_slowly(keys: list[LoadKey]) -> dict[str, object]:
    time.sleep(CALL_S)
    return {key.key: VALUE for key in keys}


@warm_plan("free")
def free() -> Iterator[str]:
    yield from (f"free:{number}" for number in range(int(os.environ[KEYS])))


@warm_plan("slow")
def slow() -> Iterator[str]:
    yield from (f"slow:{number}" for number in range(int(os.environ[KEYS])))
