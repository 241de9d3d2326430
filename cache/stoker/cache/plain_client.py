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
    finder: Any = Sentinel  # neither it nor what it returns is typed
    to_ask = {name: options[name] for name in _FOR_SENTINELS if name in options} | sentinel_options(url)
    primary: Client = finder(group.sentinels, sentinel_kwargs=to_ask).master_for(
        group.name, **_said(group.server(group.sentinels[0]), secure=group.secure), **options
    )
    return primary


def sentinel_options(url: str) -> dict[str, Any]:
    """What such a URL says of its Sentinels, but for where they are, as options of `redis.Redis`."""
    group = sentinel_url.parse(url)
    return _said(group.sentinel(group.sentinels[0]), secure=group.secure)


def _said(url: str, *, secure: bool) -> dict[str, Any]:
    parse: Any = parse_url  # untyped as well
    left_out = ("host", "port", "connection_class")
    said = {name: value for name, value in parse(url).items() if name not in left_out}
    return said | ({"ssl": True} if secure else {})


def of_primary(config: CacheConfig) -> Client:
    """A client of the cache's primary."""
    return client(
        config.redis_url or "",
        protocol=3,
        socket_connect_timeout=config.connect_timeout,
        socket_timeout=config.timeout,
    )
