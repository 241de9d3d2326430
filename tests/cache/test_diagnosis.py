"""What the guide looks at when something is wrong."""

import pytest

from stoker.cache import Cache, CacheConfig
from tests.cache.conftest import MakeCache


def test_a_memory_cache_shows_its_store() -> None:
    cache = Cache(CacheConfig(max_size=10))
    cache.set("k", 1, "acme")
    assert cache.backend == "memory"
    assert len(cache._store) == 1
    assert cache._namespaced_key("k", tenant_id="acme") == "acme:k"
    with pytest.raises(AttributeError, match="no server"):
        _ = cache._client


def test_a_cache_on_redis_shows_its_client(make_redis: MakeCache, namespace: str) -> None:
    cache = make_redis()
    cache.set("k", 1, "a:b")
    assert cache.backend == "redis"
    with cache._client as client:
        assert client.ping()
        assert client.exists(cache._namespaced_key("k", tenant_id="a:b")) == 1
    assert cache._namespaced_key("k") == f"{{{namespace}:0}}:e::k"
    with pytest.raises(AttributeError, match="on the server"):
        _ = cache._store
