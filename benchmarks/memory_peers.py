"""The caches in memory that `memory` compares, each as a pair of functions.

Every one is used as its documentation says for values that expire, with a lifetime of 300 seconds. `get` answers None
for what is not there. Awaited ones are measured with their `await`.
"""
# pyright: reportMissingImports=false

import threading
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, NamedTuple

from benchmarks.harness import Contender
from stoker.cache import AsyncCache, Cache, CacheConfig

TTL = 300


class Peer(NamedTuple):
    """A cache of some capacity.

    Attributes:
        own_order: It holds no more than its capacity, and in an order that no other contender shows, so that its hit
            ratio is worth a row.
        quick_when_full: It can play a trace within minutes.
    """

    get: Callable[[str], Any]
    set: Callable[[str, Any], Any]
    own_order: bool = True
    quick_when_full: bool = True


class AwaitedPeer(NamedTuple):
    """The same, to be awaited."""

    get: Callable[[str], Awaitable[Any]]
    set: Callable[[str, Any], Awaitable[Any]]


def _stoker(eviction: Any, capacity: int) -> Peer:
    cache = Cache(CacheConfig(max_size=capacity, default_ttl=TTL, eviction=eviction))
    return Peer(cache.get, cache.set)


def _stoker_bytes(capacity: int) -> Peer:
    config = CacheConfig(max_size=capacity, max_bytes=1000 * capacity, default_ttl=TTL)
    cache = Cache(config)
    return Peer(cache.get, cache.set, own_order=False)


def _stoker_async(capacity: int) -> AwaitedPeer:
    cache = AsyncCache(CacheConfig(max_size=capacity, default_ttl=TTL))
    return AwaitedPeer(cache.get, cache.set)


def _ttl_cache(capacity: int) -> Peer:
    from cachetools import TTLCache

    cache: Any = TTLCache(capacity, TTL)
    return Peer(cache.get, cache.__setitem__)


def _locked_ttl_cache(capacity: int) -> Peer:
    """As cachetools says that threads should: with a lock around every use."""
    from cachetools import TTLCache

    cache: Any = TTLCache(capacity, TTL)
    lock = threading.RLock()

    def get(key: str) -> Any:
        with lock:
            return cache.get(key)

    def put(key: str, value: Any) -> None:
        with lock:
            cache[key] = value

    return Peer(get, put, own_order=False)


def _lru_cache(capacity: int) -> Peer:
    """Without lifetimes: the least that an LRU in Python costs, and the hit ratio of every LRU."""
    from cachetools import LRUCache

    cache: Any = LRUCache(capacity)
    return Peer(cache.get, cache.__setitem__)


def _theine(capacity: int) -> Peer:
    from theine import Cache as Theine

    cache: Any = Theine(capacity)
    lifetime = timedelta(seconds=TTL)

    def get(key: str) -> Any:
        value, found = cache.get(key)
        return value if found else None

    return Peer(get, lambda key, value: cache.set(key, value, lifetime))


def _cachebox(capacity: int) -> Peer:
    from cachebox import VTTLCache

    cache: Any = VTTLCache(capacity)
    return Peer(cache.get, lambda key, value: cache.insert(key, value, TTL))


def _flask(capacity: int) -> Peer:
    from flask import Flask
    from flask_caching import Cache as FlaskCache

    config = {"CACHE_TYPE": "SimpleCache", "CACHE_THRESHOLD": capacity, "CACHE_DEFAULT_TIMEOUT": TTL}
    app = Flask(__name__)
    FlaskCache(app, config=config)
    [cache] = app.extensions["cache"].values()
    return Peer(cache.get, cache.set, quick_when_full=False)  # it looks at every entry to store a new one


def _django(capacity: int) -> Peer:
    from django.conf import settings
    from django.core.cache.backends.locmem import LocMemCache

    if not settings.configured:
        settings.configure()
    cache: Any = LocMemCache(f"bench {id(object())}", {"TIMEOUT": TTL, "OPTIONS": {"MAX_ENTRIES": capacity}})
    return Peer(cache.get, cache.set)


def _dogpile(capacity: int) -> Peer:  # noqa: ARG001 - it has no bound
    from dogpile.cache import make_region

    region: Any = make_region().configure("dogpile.cache.memory", expiration_time=TTL)
    return Peer(region.get, region.set, own_order=False)


def _cashews(capacity: int) -> AwaitedPeer:
    from cashews import Cache as Cashews

    cache: Any = Cashews()
    cache.setup("mem://", size=capacity, check_interval=60)
    return AwaitedPeer(cache.get, lambda key, value: cache.set(key, value, expire=TTL))


def _aiocache(capacity: int) -> AwaitedPeer:  # noqa: ARG001 - it has no bound
    from aiocache import SimpleMemoryCache

    # It keeps a timer of the event loop for every entry, and its entries in the class.
    cache: Any = SimpleMemoryCache(ttl=TTL)
    return AwaitedPeer(cache.get, cache.set)


REFERENCE = "cachetools TTLCache"
LOCKED = "cachetools TTLCache + RLock"
LRU = "cachetools LRUCache"
STOKER, STOKER_S3 = "stoker", "stoker s3fifo"

CONTENDERS = [
    Contender(STOKER, lambda capacity: _stoker("lru", capacity), ("stoker",)),
    Contender(STOKER_S3, lambda capacity: _stoker("s3fifo", capacity), ("stoker",)),
    Contender("stoker max_bytes", _stoker_bytes, ("stoker",)),
    Contender("stoker async", _stoker_async, ("stoker",)),
    Contender(REFERENCE, _ttl_cache, ("cachetools",)),
    Contender(LOCKED, _locked_ttl_cache, ("cachetools",)),
    Contender(LRU, _lru_cache, ("cachetools",)),
    Contender("theine", _theine, ("theine",)),
    Contender("cachebox VTTLCache", _cachebox, ("cachebox",)),
    Contender("flask-caching simple", _flask, ("flask-caching",)),
    Contender("Django locmem", _django, ("django",)),
    Contender("dogpile memory", _dogpile, ("dogpile.cache",)),
    Contender("cashews mem", _cashews, ("cashews",)),
    Contender("aiocache memory", _aiocache, ("aiocache",)),
]
