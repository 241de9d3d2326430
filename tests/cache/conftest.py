"""Caches for these tests: on memory and on Redis, each in a namespace of its own."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, cast

import pytest
import redis

from stoker.cache import Cache, CacheConfig, loaders
from stoker.cache.loaders import Registry
from stoker.cache.threads import Threads
from stoker.cache.wire import finished
from stoker.worker.embedded_cluster import EmbeddedCluster
from tests.cache.awaited import Awaited
from tests.leaks import take_away
from tests.plain_cluster import plain_cluster

MakeCache = Callable[..., Cache]
How = Callable[[CacheConfig], Cache]
PERMANENT = re.compile(r".*\}:(map|ctl|bans|marks)").fullmatch
"""Names of the keys that `stoker.cache.keys` lists as permanent."""


@pytest.fixture
def namespace(namespace: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace that no other test uses, and of which nothing stays."""
    yield namespace
    if "cache_server" in request.fixturenames:
        with redis.Redis.from_url(request.getfixturevalue("cache_server")) as client:
            take_away(client, namespace)
    if "cache_cluster" in request.fixturenames:
        with plain_cluster(request.getfixturevalue("cache_cluster").url) as cluster:
            take_away(cluster, namespace)


@pytest.fixture
def client(cache_server: str) -> Iterator[Any]:
    """A plain client of the server, to look behind the cache's back."""
    with redis.Redis.from_url(cache_server) as plain:
        yield plain


@pytest.fixture
def make_redis(cache_server: str, namespace: str, client: Any) -> Iterator[MakeCache]:
    """Make caches on Redis that share this test's namespace, each as another process would have it."""
    with _made(namespace, client, redis_url=cache_server) as make:
        yield make


@pytest.fixture
def make_clustered(cache_cluster: EmbeddedCluster, namespace: str) -> Iterator[MakeCache]:
    """As `make_redis`, on a cluster."""
    url = cache_cluster.url
    with (
        plain_cluster(url) as client,
        _made(namespace, client, redis_url=url, cluster=True) as make,
    ):
        yield make


@contextmanager
def _made(namespace: str, client: Any, **where: object) -> Iterator[MakeCache]:
    """Makes caches; afterwards no key is without a TTL, except control state and entries that are kept for ever."""
    for_ever = False
    with ExitStack() as stack:

        def make(how: How = Cache, **fields: object) -> Cache:
            nonlocal for_ever
            for_ever = for_ever or fields.get("default_ttl", 1) is None
            config = {"backend": "redis", "namespace": namespace, **where, **fields}
            return stack.enter_context(how(CacheConfig(**config)))  # type: ignore[arg-type]

        yield make
    names = [name.decode() for name in client.scan_iter(f"{{{namespace}*", count=1000)]
    ours = [name for name in names if not PERMANENT(name) and not (for_ever and ":e:" in name)]
    pipeline = client.pipeline(transaction=False)
    for name in ours:
        pipeline.ttl(name)
    assert [name for name, ttl in zip(ours, pipeline.execute(), strict=True) if ttl == -1] == []


@pytest.fixture(params=["called", "awaited", "awaited on uvloop"])
def how(request: pytest.FixtureRequest) -> Iterator[How]:
    """Make caches to be called, and to be awaited."""
    with ExitStack() as stack:

        def make(config: CacheConfig) -> Cache:
            if request.param == "called":
                return stack.enter_context(Cache(config))
            cache = Awaited(config, uv="uvloop" in request.param)
            stack.callback(cache.end)
            return cast("Cache", cache)

        yield make


BACKENDS = ["memory", "redis", "async memory", "async redis", "async redis on uvloop"]
ON_A_CLUSTER = [pytest.param(name, marks=pytest.mark.slow) for name in ("cluster", "async cluster")]


@pytest.fixture(params=[*BACKENDS, *ON_A_CLUSTER])
def make_cache(request: pytest.FixtureRequest) -> Iterator[MakeCache]:
    """Make a cache on each backend in turn, to be called and to be awaited."""
    with ExitStack() as stack:

        def awaited(config: CacheConfig) -> Cache:
            cache = Awaited(config, uv="uvloop" in request.param)
            stack.callback(cache.end)
            return cast("Cache", cache)

        how = awaited if "async" in request.param else Cache
        if "memory" not in request.param:
            make: MakeCache = request.getfixturevalue(
                "make_redis" if "redis" in request.param else "make_clustered"
            )
            yield partial(make, how)
        else:
            yield lambda **fields: how(CacheConfig(**fields))


@pytest.fixture(params=["memory", "redis"])
def make_sync_cache(request: pytest.FixtureRequest) -> MakeCache:
    """As `make_cache`, for what is there for `Cache` only."""
    if request.param == "redis":
        make: MakeCache = request.getfixturevalue("make_redis")
        return make
    return lambda **fields: Cache(CacheConfig(**fields))


@pytest.fixture
def cache(make_cache: MakeCache) -> Cache:
    """A cache on each backend in turn, as it comes."""
    return make_cache()


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The default registry of the test, empty at first."""
    fresh = Registry()
    monkeypatch.setattr(loaders, "default_registry", fresh)
    return fresh


@pytest.fixture
def perform() -> Callable[[Any], Any]:
    """Perform a program that asks no server."""
    return Threads(CacheConfig(), finished, None).perform
