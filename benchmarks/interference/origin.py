"""Loaders for the workers of the benchmark, which cost nothing, and plans of as many keys as the environment says."""

import os
from collections.abc import Iterator

from stoker.cache import LoadKey, loader
from stoker.tasks import warm_plan

KEYS, RATE = "STOKER_TEST_KEYS", "STOKER_TEST_RATE"
VALUE = {"name": "x" * 100, "price": 4.5}
_rate = os.environ.get(RATE)


@loader("free:{number}", ttl=3600, many=True)
def load_freely(keys: list[LoadKey]) -> dict[str, object]:
    return {key.key: VALUE for key in keys}


@loader("capped:{number}", ttl=3600, many=True, rate=float(_rate) if _rate else None)
def load_capped(keys: list[LoadKey]) -> dict[str, object]:
    return {key.key: VALUE for key in keys}


@warm_plan("free")
def free() -> Iterator[str]:
    yield from (f"free:{number}" for number in range(int(os.environ[KEYS])))


@warm_plan("capped")
def capped() -> Iterator[str]:
    yield from (f"capped:{number}" for number in range(int(os.environ[KEYS])))
