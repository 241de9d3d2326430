"""redis-py's own client of a server, or of the primary that Sentinels name: for diagnosis, jobs and state.

Not for the cache's operations, which have transports. With Sentinels redis-py asks them whenever it connects.
"""

from typing import Any, TypeAlias

import redis
from redis.connection import parse_url
from redis.sentinel import Sentinel

from stoker.cache import sentinel_url
from stoker.cache.options import CacheConfig
from stoker.cache.sentinel_url import is_sentinel

Client: TypeAlias = redis.Redis
_FOR_SENTINELS = ("retry", "socket_connect_timeout", "socket_timeout")


def client(url: str, **options: Any) -> Client:
    """A client; `options` are those of `redis.Redis`. It does not connect before its first use.

    Raises:
        ValueError: The URL cannot be used.
    """
    if not is_sentinel(url):
        return redis.Redis.from_url(url, **options)
    group = sentinel_url.parse(url)
    first = group.sentinels[0]
    finder = Sentinel(
        group.sentinels,
        sentinel_kwargs={name: options[name] for name in _FOR_SENTINELS if name in options}
        | _where(group.sentinel(first), secure=group.secure),
    )
    primary: Client = finder.master_for(
        group.name, **_where(group.server(first), secure=group.secure), **options
    )
    return primary


def _where(url: str, *, secure: bool) -> dict[str, Any]:
    """What a URL says besides host and port, as options."""
    left_out = ("host", "port", "connection_class")
    said = {name: value for name, value in parse_url(url).items() if name not in left_out}
    return said | ({"ssl": True} if secure else {})


def of_primary(config: CacheConfig) -> Client:
    """A client of the cache's primary."""
    return client(
        config.redis_url or "",
        protocol=3,
        socket_connect_timeout=config.connect_timeout,
        socket_timeout=config.timeout,
    )
