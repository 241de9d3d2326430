"""Loaders for the workers of these tests. Each load is slow, and counted on the cache's server."""

import os
import time

import redis

from stoker.cache import LoadKey, loader


def loads_key(namespace: str) -> str:
    return f"{namespace}:test:loads"


@loader("slow:{number}", ttl=600, many=True)
def load_slowly(keys: list[LoadKey]) -> dict[str, object]:
    pause = float(os.environ["STOKER_TEST_LOAD_SECONDS"])
    with redis.Redis.from_url(os.environ["STOKER_CACHE_URL"]) as counts:
        counts.incrby(loads_key(os.environ["STOKER_NAMESPACE"]), len(keys))
    time.sleep(pause * len(keys))
    return {key.key: {"number": int(str(key.args["number"]))} for key in keys}


@loader("broken:{number}")
def load_never(number: int) -> object:
    raise ValueError(f"no coal for {number}")
