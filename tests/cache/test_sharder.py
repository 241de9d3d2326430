"""Sharding on one server: every operation over shards, and processes that must place keys alike."""

import os
import re
import subprocess
import sys
import time
import zlib
from collections.abc import Callable

import pytest

from stoker.cache import Cache, CacheSharder, CacheShardingConfig, ConfigError, PlacementMismatch
from stoker.cache.shards import Placement
from tests.cache.conftest import MakeCache
from tests.waiting import wait_until


@pytest.fixture
def make_cache(make_sync_cache: MakeCache) -> MakeCache:
    """The companions take a `Cache`."""
    return make_sync_cache


KEYS = [f"user:{i}" for i in range(400)]


@pytest.fixture
def sharded(make_cache: MakeCache) -> Cache:
    cache = make_cache(max_load=0.2, lease=0.2)
    CacheSharder(cache, CacheShardingConfig(enabled=True, num_shards=4))
    return cache


def test_every_operation_works_over_shards(sharded: Cache) -> None:
    assert sharded.set_many({key: key for key in KEYS}, "acme", tags=["users"])
    assert sharded.get_many([*KEYS, "absent"], "acme") == {key: key for key in KEYS}
    assert sharded.get("user:7", "acme") == "user:7"
    assert sharded.get_or_load("other", lambda: 1, "acme") == 1
    assert sharded.delete("user:7", "acme")
    assert sharded.set("user:8", "new", "acme", token=sharded.snapshot("user:8", "acme", hold=0.2))
    sharded.invalidate_pattern("user:1*", "acme")
    assert {key for key in KEYS if key.startswith("user:1")}.isdisjoint(sharded.get_many(KEYS, "acme"))
    sharded.invalidate_tags(["users"], "acme")
    assert sharded.get_many(KEYS, "acme") == {"user:8": "new"}
    sharded.invalidate_tenant("acme")
    assert sharded.get_many([*KEYS, "other"], "acme") == {}


def test_values_of_many_shards_come_in_the_order_asked(sharded: Cache) -> None:
    sharded.set_many({key: [key] for key in KEYS}, "acme", soft_ttl=0.01)
    assert sharded.delete(KEYS[3], "acme")
    stored = time.time()
    wait_until(lambda: time.time() > stored + 0.02)
    before = sharded.stats()
    asked = [*reversed(KEYS), "absent"]
    found = sharded.get_many(asked, "acme")
    assert list(found.items()) == [(key, [key]) for key in asked if key not in {KEYS[3], "absent"}]
    after = sharded.stats()
    assert after.hits - before.hits == after.stale_hits - before.stale_hits == len(found)
    assert after.misses - before.misses == 2


@pytest.mark.parametrize("key_func", [None, len])
@pytest.mark.parametrize("field", ["", "acme", "a%3Ab", "pinned"])
def test_many_keys_live_where_each_of_them_does(key_func: Callable[[str], int] | None, field: str) -> None:
    placement = Placement(7, key_func, pins={"pinned": 5})
    keys = [*KEYS, "größe", ":", "a:b"]
    assert placement.shards_of(field, keys) == [placement.shard_of(field, key) for key in keys]


def test_one_sweep_serves_all_shards(sharded: Cache) -> None:
    sharded.set_many(dict.fromkeys(KEYS, 0))
    sharded.set("stays", 1)
    sharded.invalidate_pattern("user:*")
    deleted = sharded.sweep().deleted
    assert deleted == len(KEYS)
    wait_until(lambda: sharded.sweep().complete and all(sharded.explain(k)["bans"] == 0 for k in KEYS[:20]))
    assert sharded.get("stays") == 1


def test_a_sweep_goes_on_from_its_cursor_over_shards(make_redis: MakeCache) -> None:
    cache = make_redis()
    CacheSharder(cache, CacheShardingConfig(enabled=True, num_shards=4))
    cache.set_many({f"user:{i}": i for i in range(2000)})
    cache.invalidate_pattern("user:*")
    step = next(iter(cache.sweep_steps(batch=100)))
    *_, last = cache.sweep_steps(batch=100, cursor=step.cursor)
    assert (last.report.deleted, last.report.restarts) == (2000, 0)


def test_keys_are_spread_evenly(sharded: Cache) -> None:
    sharded.set_many(dict.fromkeys(KEYS, 0))
    counts = sharded._run(sharded._core.backend.entries_by_shard())
    assert sum(counts.values()) == len(KEYS)
    assert max(counts.values()) / (len(KEYS) / 4) < 1.25


def crc32(key: str) -> int:
    return zlib.crc32(key.encode())


def test_shard_for_tells_where_a_key_lives(make_cache: MakeCache) -> None:
    cache = make_cache()
    sharder = CacheSharder(
        cache, CacheShardingConfig(num_shards=3, shard_key_func=lambda key: zlib.crc32(key.encode()))
    )
    assert sharder.config.enabled is False
    with pytest.raises(ConfigError, match=re.escape("call enable_sharding() first")):
        sharder.distribution()
    sharder.enable_sharding()
    assert sharder.config.enabled is True
    cache.set("user:1", 1)
    home = sharder.shard_for("user:1")
    assert home == zlib.crc32(b"user:1") % 3
    assert sharder.distribution() == {n: int(n == home) for n in range(3)}


def test_sharding_a_cache_in_use_says_what_would_be_lost(make_redis: MakeCache) -> None:
    cache = make_redis()
    cache.set("k", 1)
    with pytest.raises(ConfigError, match="the cache is in use with 1, and what it holds"):
        CacheSharder(cache).enable_sharding()
    assert cache.get("k") == 1


def test_a_process_that_shards_otherwise_is_refused(make_redis: MakeCache) -> None:
    make_redis().set("k", 1)
    other = make_redis()
    CacheSharder(other, CacheShardingConfig(enabled=True, num_shards=4))
    with pytest.raises(PlacementMismatch, match="num_shards=4: the namespace is open with num_shards=1"):
        other.get("k")


@pytest.mark.parametrize("count", [0, 1025, True, "4"])
def test_the_number_of_shards_is_bounded(cache: Cache, count: int) -> None:
    with pytest.raises(ConfigError, match="from 1 to 1024"):
        CacheSharder(cache, CacheShardingConfig(num_shards=count))


def test_a_function_that_gives_no_int_is_refused(cache: Cache) -> None:
    with pytest.raises(ConfigError, match="shard_key_func='user': must"):
        CacheSharder(cache, CacheShardingConfig(shard_key_func=lambda _: "user"))  # type: ignore[arg-type,return-value]


HASHING = """
import sys
from stoker.cache import Cache, CacheConfig, CacheSharder, CacheShardingConfig, PlacementMismatch
backend, url, namespace = sys.argv[1:]
cache = Cache(CacheConfig(backend=backend, redis_url=url, namespace=namespace))
CacheSharder(cache, CacheShardingConfig(enabled=True, shard_key_func=lambda k: hash(k) % 4))
try:
    cache.set("k", 1)
    print("stored", cache.get("k"))
except PlacementMismatch as error:
    print("refused", error)
"""


def hashing(backend: str, url: str, namespace: str, seed: str) -> str:
    env = os.environ | {"PYTHONHASHSEED": seed}
    command = [sys.executable, "-c", HASHING, backend, url, namespace]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=110).stdout


def test_a_function_that_differs_between_processes_is_refused_on_redis(
    cache_server: str, namespace: str
) -> None:
    assert hashing("redis", cache_server, namespace, "1").startswith("stored 1")
    assert hashing("redis", cache_server, namespace, "1").startswith("stored 1")
    refused = hashing("redis", cache_server, namespace, "2")
    assert refused.startswith("refused shard_key_func=")
    assert "zlib.crc32 does" in refused


def test_on_memory_any_function_is_fine(cache_server: str, namespace: str) -> None:
    for seed in ("1", "2"):
        assert hashing("memory", cache_server, namespace, seed).startswith("stored 1")
