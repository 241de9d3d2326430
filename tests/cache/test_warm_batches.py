"""Batches that are loaded without a lease for each key: what is deleted or set meanwhile is not stored (rule 2)."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stoker.cache import Cache, CacheConfig, CacheSharder, CacheShardingConfig, LoadKey
from stoker.cache.keys import ShardKeys
from stoker.cache.loaders import Loader, Registry

KEYS = [f"item:{number}" for number in range(300)]


class Origin:
    """A batch loader: what each key is worth now, and what happens after that was read."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.value: Any = "old"
        self.during: Callable[[], object] = lambda: None
        self.odd: dict[str, Any] = {}

    def load(self, keys: list[LoadKey]) -> dict[str, Any]:
        self.calls.append(len(keys))
        values = {key.key: self.odd.get(key.key, self.value) for key in keys}
        if len(self.calls) == 1:
            self.during()
        return values


@pytest.fixture
def origin() -> Origin:
    return Origin()


@pytest.fixture(params=[1, 3], ids=["one shard", "three shards"])
def cache(
    request: pytest.FixtureRequest, origin: Origin, cache_server: str, namespace: str
) -> Iterator[Cache]:
    registry = Registry()

    def items(keys: list[LoadKey]) -> dict[str, Any]:
        return origin.load(keys)

    registry.add(Loader("item:{n}", items, many=True, ttl=60))
    config = CacheConfig(backend="redis", redis_url=cache_server, namespace=namespace, lease=5)
    with Cache(config, registry=registry) as opened:
        CacheSharder(opened, CacheShardingConfig(enabled=request.param > 1, num_shards=request.param))
        yield opened


def changed(cache: Cache, origin: Origin, change: Callable[[], object]) -> None:
    """Warm all keys while that happens to the second one, whose value is another from then on."""

    def during() -> None:
        origin.value = "new"
        change()

    origin.during = during
    report = cache.warm(KEYS, lanes=1)
    assert (report.written, report.failed) == (300, 0)
    assert report.checked == report.readable


def test_what_is_deleted_under_the_load_is_loaded_again(cache: Cache, origin: Origin) -> None:
    changed(cache, origin, lambda: cache.delete("item:1"))
    assert cache.get("item:1") == "new"
    assert cache.get("item:2") == "old"
    assert origin.calls == [300, 1]


def test_what_is_set_under_the_load_stays(cache: Cache, origin: Origin) -> None:
    origin.during = lambda: cache.set("item:1", "set")
    report = cache.warm(KEYS, lanes=1)
    assert (report.written, report.fresh) == (299, 1)
    assert cache.get("item:1") == "set"


def test_who_computes_under_a_token_is_not_overtaken(cache: Cache, origin: Origin) -> None:
    token = cache.snapshot("item:1", hold=5)
    origin.during = lambda: cache.set("item:1", "computed", token=token)
    report = cache.warm(KEYS, lanes=1)
    assert (report.written, report.fresh) == (299, 1)
    assert cache.get("item:1") == "computed"


def test_nothing_is_stored_where_nobody_knows_what_was_deleted(
    cache: Cache, origin: Origin, client: Any, namespace: str
) -> None:
    def lose_the_list() -> None:
        cache.delete("item:1")
        client.delete(*[ShardKeys(namespace, shard).writes for shard in range(3)])

    changed(cache, origin, lose_the_list)
    assert cache.get("item:1") == "new"
    assert cache.get("item:2") == "new"
    assert sum(origin.calls) == 600


def test_another_list_in_its_place_is_noticed(
    cache: Cache, origin: Origin, client: Any, namespace: str
) -> None:
    def begin_another() -> None:
        cache.delete("item:1")
        for shard in range(3):
            client.delete(ShardKeys(namespace, shard).writes)
            client.rpush(ShardKeys(namespace, shard).writes, "another batch")

    changed(cache, origin, begin_another)
    assert cache.get("item:1") == "new"


def test_a_list_that_grows_long_is_given_up(
    cache: Cache, origin: Origin, client: Any, namespace: str
) -> None:
    def write_much() -> None:
        for shard in range(3):
            writes = ShardKeys(namespace, shard).writes
            if client.exists(writes):
                client.rpush(writes, *["x"] * 10_000)
        cache.delete("item:1")

    changed(cache, origin, write_much)
    assert cache.get("item:1") == "new"


def test_what_stands_in_its_place_does_not_stop_a_delete(
    cache: Cache, origin: Origin, client: Any, namespace: str
) -> None:
    for shard in range(3):
        client.set(ShardKeys(namespace, shard).writes, "no list")
    assert cache.warm(KEYS).written == 300  # key by key
    assert cache.delete("item:1")
    assert cache.get("item:1") is None
    assert len(origin.calls) == 1


def test_a_value_that_needs_a_look_of_its_own_is_stored_with_its_batch(cache: Cache, origin: Origin) -> None:
    origin.odd = {"item:7": "long " * 100_000, "item:8": object()}
    origin.during = lambda: cache.delete("item:1")
    report = cache.warm(KEYS, lanes=1)
    assert (report.written, report.failed) == (299, 1)
    assert cache.get("item:7") == "long " * 100_000
    assert cache.get("item:1") == "old"
    assert origin.calls == [300, 1]


def test_no_list_is_left(cache: Cache, client: Any, namespace: str) -> None:
    cache.warm(KEYS)
    left = [client.pttl(ShardKeys(namespace, shard).writes) for shard in range(3)]
    assert all(0 < ms <= 5000 or ms == -2 for ms in left)
