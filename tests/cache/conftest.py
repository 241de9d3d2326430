"""Caches for these tests: on memory and on Redis, each in a namespace of its own.

The server is an embedded Valkey, or the one at STOKER_TEST_REDIS_URL.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import redis

from stoker.cache import Cache, CacheConfig
from stoker.worker.embedded import embedded_server

MakeCache = Callable[..., Cache]
_numbers = itertools.count()


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A server for the whole session."""
    given = os.environ.get("STOKER_TEST_REDIS_URL")
    if given:
        yield given
        return
    with embedded_server("cache") as server:
        yield server.url


@pytest.fixture
def client(redis_url: str) -> Iterator["redis.Redis"]:
    """A plain client of the server, to look behind the cache's back."""
    with redis.Redis.from_url(redis_url) as plain:
        yield plain


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test uses."""
    return f"test-{os.getpid()}-{next(_numbers)}"


@pytest.fixture
def make_redis(redis_url: str, namespace: str) -> Iterator[MakeCache]:
    """Make caches on Redis that share this test's namespace, each as another process would have it."""
    with ExitStack() as stack:

        def make(**fields: object) -> Cache:
            config = {"backend": "redis", "redis_url": redis_url, "namespace": namespace, **fields}
            return stack.enter_context(Cache(CacheConfig(**config)))  # type: ignore[arg-type]

        yield make


@pytest.fixture(params=["memory", "redis"])
def make_cache(request: pytest.FixtureRequest) -> MakeCache:
    """Make a cache on each backend in turn."""
    if request.param == "redis":
        make: MakeCache = request.getfixturevalue("make_redis")
        return make
    return lambda **fields: Cache(CacheConfig(**fields))


@pytest.fixture
def cache(make_cache: MakeCache) -> Cache:
    """A cache on each backend in turn, as it comes."""
    return make_cache()
