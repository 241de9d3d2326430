"""A plain client of a cluster, for tests that look behind the cache's back."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis


@contextmanager
def plain_cluster(url: str) -> Iterator[Any]:
    """A client that is closed with all its connections: redis-py leaves those of one that was made from a URL open."""
    client: Any = redis.RedisCluster.from_url(url)
    try:
        yield client
    finally:
        client.disconnect_connection_pools()
        client.close()
