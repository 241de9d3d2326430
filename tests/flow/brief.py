"""A loader whose values hardly live, so that each run of a plan must call it. Each call leaves a line on the cache's
server, by which runs are counted."""

import os

import redis

from stoker.cache import LoadKey, loader


def runs_key(namespace: str, key: str) -> str:
    return f"{namespace}:test:runs:{key}"


def runs(client: redis.Redis, namespace: str, key: str) -> int:
    """How often a key was loaded."""
    return int(client.get(runs_key(namespace, key)) or 0)


@loader("brief:{number}", ttl=0.05, ttl_jitter=0, many=True)
def load_briefly(keys: list[LoadKey]) -> dict[str, int]:
    with redis.Redis.from_url(os.environ["STOKER_CACHE_URL"]) as client:
        for key in keys:
            name = runs_key(os.environ["STOKER_NAMESPACE"], key.key)
            client.incr(name)
            client.expire(name, 600)
    return {key.key: 0 for key in keys}
