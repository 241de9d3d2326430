"""The ways to use a cache on Redis that `redis_speed` compares, each as three functions.

Every one is used as its documentation says for values that expire, with a lifetime of 300 seconds, and gives back what
was stored: a small dict, except for plain clients, which read and write its 100 bytes as they are. `set` waits for
the answer.
"""
# pyright: reportMissingImports=false

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from benchmarks.harness import Contender
from stoker.cache import AsyncCache, Cache, CacheConfig

TTL = 300
VALUE = {"id": 1234567, "name": "Ada Lovelace", "email": "ada@example.org", "roles": ["admin", "dev"]}
BYTES = b"x" * 100


class Peer(NamedTuple):
    """A cache on the server of some URL, called."""

    get: Callable[[str], Any]
    set: Callable[[str], Any]
    get_many: Callable[[list[str]], Any]


class AwaitedPeer(NamedTuple):
    """The same, to be awaited; opened on the loop that uses it."""

    get: Callable[[str], Awaitable[Any]]
    set: Callable[[str], Awaitable[Any]]
    get_many: Callable[[list[str]], Awaitable[Any]]
    close: Callable[[], Awaitable[Any]]


def _stoker(url: str) -> Peer:
    cache = Cache(CacheConfig(backend="redis", redis_url=url, namespace="bench", default_ttl=TTL))
    return Peer(cache.get, lambda key: cache.set(key, VALUE), cache.get_many)


def _redis_py(url: str) -> Peer:
    import redis

    client: Any = redis.Redis.from_url(url)
    return Peer(client.get, lambda key: client.set(key, BYTES, ex=TTL), client.mget)


def _client_side(url: str) -> Peer:
    """A copy in this process. redis-py takes only Redis from 7.4 on for it, and is told that Valkey is one."""
    import redis
    from redis.cache import CacheConfig as ClientSide
    from redis.connection import CacheProxyConnection

    redis_py: Any = CacheProxyConnection
    redis_py.MIN_ALLOWED_VERSION = "7.0.0"
    redis_py.DEFAULT_SERVER_NAME = "valkey"
    client: Any = redis.Redis.from_url(url, protocol=3, cache_config=ClientSide())
    return Peer(client.get, lambda key: client.set(key, BYTES, ex=TTL), client.mget)


def _flask(url: str) -> Peer:
    from flask import Flask
    from flask_caching import Cache as FlaskCache

    app = Flask(__name__)
    FlaskCache(app, config={"CACHE_TYPE": "RedisCache", "CACHE_REDIS_URL": url, "CACHE_DEFAULT_TIMEOUT": TTL})
    [cache] = app.extensions["cache"].values()
    return Peer(cache.get, lambda key: cache.set(key, VALUE), lambda keys: cache.get_many(*keys))


def _django(backend: str, url: str) -> Peer:
    from django.conf import settings
    from django.core.cache import caches
    from django.core.cache.backends.base import BaseCache
    from django.utils.module_loading import import_string

    if not settings.configured:
        settings.configure(CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}})
    assert caches is not None
    cache: BaseCache = import_string(backend)(url, {"TIMEOUT": TTL})
    return Peer(cache.get, lambda key: cache.set(key, VALUE), cache.get_many)


def _dogpile(url: str) -> Peer:
    from dogpile.cache import make_region

    region: Any = make_region().configure(
        "dogpile.cache.redis",
        expiration_time=TTL,
        arguments={"url": url, "redis_expiration_time": TTL + 30, "distributed_lock": False},
    )
    return Peer(region.get, lambda key: region.set(key, VALUE), region.get_multi)


def _glide(url: str) -> Peer:
    from urllib.parse import urlsplit

    from glide_sync import ExpirySet, ExpiryType, GlideClient, GlideClientConfiguration, NodeAddress

    parts = urlsplit(url)
    client: Any = GlideClient.create(
        GlideClientConfiguration([NodeAddress(parts.hostname or "", parts.port or 6379)])
    )
    expiry = ExpirySet(ExpiryType.SEC, TTL)
    return Peer(client.get, lambda key: client.set(key, BYTES, expiry=expiry), client.mget)


async def _stoker_async(url: str) -> AwaitedPeer:
    cache = AsyncCache(CacheConfig(backend="redis", redis_url=url, namespace="bench", default_ttl=TTL))
    return AwaitedPeer(cache.get, lambda key: cache.set(key, VALUE), cache.get_many, cache.close)


async def _redis_asyncio(url: str) -> AwaitedPeer:
    import redis.asyncio

    client: Any = redis.asyncio.Redis.from_url(url)
    return AwaitedPeer(client.get, lambda key: client.set(key, BYTES, ex=TTL), client.mget, client.aclose)


async def _cashews(url: str) -> AwaitedPeer:
    from cashews import Cache as Cashews

    cache: Any = Cashews()
    cache.setup(url, max_connections=100, suppress=False)
    return AwaitedPeer(
        cache.get,
        lambda key: cache.set(key, VALUE, expire=TTL),
        lambda keys: cache.get_many(*keys),
        cache.close,
    )


async def _aiocache(url: str) -> AwaitedPeer:
    from urllib.parse import urlsplit

    from aiocache import RedisCache
    from aiocache.serializers import PickleSerializer

    parts = urlsplit(url)
    cache: Any = RedisCache(
        endpoint=parts.hostname, port=parts.port, pool_max_size=100, serializer=PickleSerializer(), ttl=TTL
    )
    return AwaitedPeer(cache.get, lambda key: cache.set(key, VALUE), cache.multi_get, cache.close)


async def _glide_async(url: str) -> AwaitedPeer:
    from urllib.parse import urlsplit

    from glide import ExpirySet, ExpiryType, GlideClient, GlideClientConfiguration, NodeAddress

    parts = urlsplit(url)
    client: Any = await GlideClient.create(
        GlideClientConfiguration([NodeAddress(parts.hostname or "", parts.port or 6379)])
    )
    expiry = ExpirySet(ExpiryType.SEC, TTL)
    return AwaitedPeer(
        client.get, lambda key: client.set(key, BYTES, expiry=expiry), client.mget, client.close
    )


STOKER, REFERENCE = "stoker", "redis-py"
STOKER_ASYNC, REFERENCE_ASYNC = "stoker async", "redis.asyncio"

CONTENDERS = [
    Contender(STOKER, _stoker, ("stoker",)),
    Contender(REFERENCE, _redis_py, ("redis", "hiredis")),
    Contender("flask-caching redis", _flask, ("flask-caching",)),
    Contender(
        "django-redis", lambda url: _django("django_redis.cache.RedisCache", url), ("django-redis", "django")
    ),
    Contender(
        "Django RedisCache",
        lambda url: _django("django.core.cache.backends.redis.RedisCache", url),
        ("django",),
    ),
    Contender("dogpile redis", _dogpile, ("dogpile.cache",)),
    Contender("valkey-glide", _glide, ("valkey-glide-sync",)),
    # A near cache's row belongs here, beside the other one that keeps a copy in the process.
    Contender("redis-py client-side cache", _client_side, ("redis",)),
    Contender(STOKER_ASYNC, _stoker_async, ("stoker",)),
    Contender(REFERENCE_ASYNC, _redis_asyncio, ("redis", "hiredis")),
    Contender("cashews redis", _cashews, ("cashews",)),
    Contender("aiocache redis", _aiocache, ("aiocache",)),
    Contender("valkey-glide async", _glide_async, ("valkey-glide",)),
]
AWAITED = {STOKER_ASYNC, REFERENCE_ASYNC, "cashews redis", "aiocache redis", "valkey-glide async"}


def chosen(contenders: Sequence[Contender], *, awaited: bool) -> list[Contender]:
    """Those of the contenders that are awaited, or called."""
    return [one for one in contenders if (one.name in AWAITED) == awaited]
