"""The origin of `benchmarks.replay`: writes down each key that it is asked for. For readers and workers."""

import os
from functools import cache

import redis

from stoker.cache import LoadKey, loader

LOADS = "loads"
_VALUE = "x" * 400


@cache
def origin(pid: int) -> redis.Redis:  # noqa: ARG001 - a forked child has connections of its own
    """Where it writes."""
    return redis.Redis.from_url(os.environ["STOKER_TEST_ORIGIN"], decode_responses=True)


@loader("item:{rank}", ttl=3600, many=True)
def load_items(keys: list[LoadKey]) -> dict[str, str]:
    origin(os.getpid()).rpush(LOADS, *(key.key for key in keys))
    return {key.key: _VALUE for key in keys}
