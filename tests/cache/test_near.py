"""Copies in the process: whose they are, how long they are served, and what becomes of them when anything breaks."""

import asyncio
import gc
import time
from collections.abc import Callable
from typing import Any

import pytest

from stoker.cache import (
    AsyncCache,
    Cache,
    CacheConfig,
    CacheMonitor,
    ConfigError,
    PlacementMismatch,
    scripts,
)
from stoker.cache.loaders import Loader, Registry
from stoker.cache.near import Near
from stoker.cache.near_stream import Stream
from stoker.cache.wire import Call, once
from tests.cache.conftest import MakeCache
from tests.cache.copied import BOUND_S, copied, state
from tests.cache.proxy import SlowProxy
from tests.waiting import wait_until


@pytest.fixture
def reader(make_redis: MakeCache) -> Cache:
    """One that keeps copies."""
    return make_redis(near_size=100)


@pytest.fixture
def writer(make_redis: MakeCache) -> Cache:
    """Another process, as it were."""
    return make_redis()


CHANGES: list[Callable[[Cache], object]] = [
    lambda cache: cache.set("k", "new", "acme"),
    lambda cache: cache.set_many({"k": "new"}, "acme"),
    lambda cache: cache.delete("k", "acme"),
    lambda cache: cache.invalidate_pattern("k*", "acme"),
    lambda cache: cache.invalidate_tags(["t"], "acme"),
    lambda cache: cache.invalidate_tenant("acme"),
]


@pytest.mark.parametrize("change", CHANGES)
def test_what_one_changes_himself_he_reads_at_once(reader: Cache, change: Callable[[Cache], object]) -> None:
    for _ in range(5):
        reader.set("k", "old", "acme", tags=["t"])
        copied(reader, "k", tenant_id="acme")
        change(reader)
        assert reader.get("k", "acme") in (None, "new")


@pytest.mark.parametrize("change", CHANGES)
def test_what_another_changes_is_read_before_the_bound_has_passed(
    reader: Cache, writer: Cache, change: Callable[[Cache], object]
) -> None:
    writer.set("k", "old", "acme", tags=["t"])
    copied(reader, "k", tenant_id="acme")
    change(writer)
    acknowledged = time.monotonic()
    wait_until(lambda: reader.get("k", "acme") != "old", 5)
    assert time.monotonic() - acknowledged < BOUND_S + 0.05


@pytest.mark.parametrize("change", [*CHANGES[:1], *CHANGES[3:4]])
def test_a_barrier_lasts_as_long_as_any_copy(
    make_redis: MakeCache, cache_server: str, writer: Cache, change: Callable[[Cache], object]
) -> None:
    with SlowProxy(cache_server) as proxy:
        reader = make_redis(redis_url=proxy.url, near_size=100)
        writer.set("k", "old", "acme", tags=["t"])
        copied(reader, "k", tenant_id="acme")
        proxy.delay_s = 0.25  # what has changed is told much too late
        began = time.monotonic()
        with_barrier(change)(writer)
        assert time.monotonic() - began >= BOUND_S
        assert reader.get("k", "acme") in (None, "new")
        proxy.delay_s = 0.0


def with_barrier(change: Callable[[Cache], object]) -> Callable[[Cache], object]:
    """The same change, with the option."""

    class Barred:
        def __init__(self, cache: Cache) -> None:
            self._cache = cache

        def __getattr__(self, name: str) -> Any:
            method = getattr(self._cache, name)
            return lambda *args, **options: method(*args, **options, barrier=True)

    return lambda cache: change(Barred(cache))  # type: ignore[arg-type]


def test_a_memory_cache_has_nobody_to_wait_for() -> None:
    cache = Cache()
    began = time.monotonic()
    cache.set("k", 1, barrier=True)
    assert cache.delete("k", barrier=True)
    assert time.monotonic() - began < BOUND_S


def test_nothing_is_copied_that_is_read_once(reader: Cache, writer: Cache) -> None:
    writer.set_many({f"k{n}": n for n in range(50)})
    copied(reader, "k0")
    for n in range(1, 50):
        assert reader.get(f"k{n}") == n
    copied(reader, "k1")
    assert reader.stats().near_entries == 2


def test_a_caller_may_do_what_he_likes_with_a_value(reader: Cache) -> None:
    reader.set("k", {"list": [1]})
    copied(reader, "k")
    hits = reader.stats().near_hits
    reader.get("k")["list"].append(2)
    assert reader.get("k") == {"list": [1]}
    assert reader.get_or_load("k", dict) == {"list": [1]}
    assert reader.get("k", type=dict[str, list[int]]) == {"list": [1]}
    assert reader.get("k", default="else", type=list[int]) == "else"
    assert reader.stats().near_hits == hits + 4


def test_copies_are_bounded_by_entries_and_those_that_are_read_stay(make_redis: MakeCache) -> None:
    reader = make_redis(near_size=4)
    reader.set_many({f"k{n}": "x" for n in range(12)})
    copied(reader, "k0")
    for n in range(1, 12):
        copied(reader, "k0", f"k{n}")
    assert reader.stats().near_entries == 4


def test_copies_are_bounded_by_bytes_and_what_is_too_large_is_not_asked_for(make_redis: MakeCache) -> None:
    reader = make_redis(near_size=100, near_bytes=50_000, compress_above=None)
    reader.set_many({f"k{n}": b"x" * 10_000 for n in range(8)})
    reader.set("large", b"x" * 60_000)
    for n in range(8):
        copied(reader, f"k{n}")
    stats = reader.stats()
    assert 0 < stats.near_bytes <= 50_000
    assert stats.near_entries == 2
    for _ in range(10):
        reader.get("large")
    assert state(reader, "large") == "absent"


def test_the_estimate_of_bytes_is_not_below_what_copies_take(make_redis: MakeCache) -> None:
    import tracemalloc

    reader = make_redis(near_size=3000)
    values = {f"key:{n}": {"name": f"name {n}", "n": [n] * 10} for n in range(500)}
    reader.set_many(values)
    reader.get_many(values)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    wait_until(lambda: reader.get_many(values) and reader.stats().near_entries == 500, 5)
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert taken <= reader.stats().near_bytes <= 2.5 * taken


def test_a_loader_says_whether_its_values_are_copied(make_redis: MakeCache) -> None:
    registry = Registry()
    registry.add(Loader("plain:{n}", lambda n: n))
    registry.add(Loader("never:{n}", lambda n: n, near=False))
    registry.add(Loader("marked:{n}", lambda n: n, near=True))
    for near_all, kept in ((True, {"plain:1", "marked:1", "none"}), (False, {"marked:1"})):
        config = make_redis(near_size=100, near_all=near_all).config
        with Cache(config, registry=registry) as cache:
            cache.set("none", 1)
            for key in ("plain:1", "never:1", "marked:1"):
                cache.get_or_load(key)
            copied(cache, *kept)
            assert {
                key for key in ("plain:1", "never:1", "marked:1", "none") if state(cache, key) != "absent"
            } == kept


def test_past_its_soft_expiry_a_value_goes_the_long_way(reader: Cache) -> None:
    reader.set("k", "old", soft_ttl=0.3)
    copied(reader, "k")
    wait_until(lambda: state(reader, "k") != "served", 5)
    wait_until(lambda: reader.get_or_load("k", lambda: "new") == "new", 5)
    assert reader.stats().refreshes == 1


def test_a_copy_ends_with_its_entry(reader: Cache, writer: Cache) -> None:
    writer.set("k", 1, ttl=0.3)
    copied(reader, "k")
    began = time.monotonic()
    wait_until(lambda: reader.get("k") is None, 5)
    assert time.monotonic() - began < 0.4


def test_a_copy_that_may_have_outlived_the_bans_against_it_is_not_served(
    make_redis: MakeCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server drops what it likes and then a sweep finds nothing to unlink: nothing tells of the copy."""
    reader, writer = make_redis(near_size=10, max_load=0.1, lease=0.1), make_redis(max_load=0.1, lease=0.1)
    monkeypatch.setattr(Stream, "changed", only_control(Stream.changed))
    for guarded in (True, False):
        if not guarded:
            monkeypatch.setattr(Near, "outlived", lambda *_: True)
        writer.set("k", "old")
        copied(reader, "k")
        writer.invalidate_pattern("k*")
        writer._client.delete(writer._namespaced_key("k"))
        retire(writer)
        writer.set("other", 1)
        wait_until(lambda: reader.get("other") and state(reader, "other") == "served", 5)
        assert reader.get("k") == (None if guarded else "old")
        reader._core.near.forget([(None, "k")])  # type: ignore[union-attr]


def only_control(changed: Callable[..., None]) -> Callable[..., None]:
    return lambda self, names: changed(self, [name for name in names if name.endswith(b":ctl")])


def retire(cache: Cache) -> None:
    """Sweep until no ban is left."""
    wait_until(lambda: cache.sweep().complete and cache.explain("none")["bans"] == 0, 10)


def test_copies_are_served_while_a_sweep_goes_on(reader: Cache, make_redis: MakeCache) -> None:
    sweeper = make_redis()
    reader.set("k", 1)
    reader.invalidate_tags(["t"])
    copied(reader, "k")
    shard = reader._core.backend.shards[0]  # type: ignore[attr-defined]
    closing = Call(scripts.CLOSE, (shard.keys.ctl, shard.keys.marks), (shard.digest, -1000))
    sweeper._run(once(closing))
    wait_until(lambda: state(reader, "k") != "served", 5)
    copied(reader, "k")
    assert shard.view.control.closing > 0


def test_a_memory_cache_needs_no_copies() -> None:
    with pytest.raises(ConfigError, match="near_size=10: is for the redis backend"):
        CacheConfig(near_size=10)


def test_copies_of_what_is_on_a_cluster_need_servers_that_can_be_told_apart() -> None:
    with pytest.raises(ConfigError, match="near_size=10: is not there on a cluster with boot_fence='off'"):
        CacheConfig(backend="redis", redis_url="redis://h:1", cluster=True, near_size=10, boot_fence="off")


def test_a_bound_that_the_map_cannot_hold_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"near_bound=0\.0104: give whole milliseconds"):
        CacheConfig(near_bound=0.0104)


def test_two_bounds_in_one_namespace_are_refused(make_redis: MakeCache, writer: Cache) -> None:
    writer.set("k", 1)
    with pytest.raises(PlacementMismatch, match=r"open with near_bound_ms=100, .*use that"):
        make_redis(near_bound=0.2).set("k", 1)


def test_what_was_served_of_copies_counts_like_any_read(reader: Cache) -> None:
    reader.set("user:1", 1, "acme")
    copied(reader, "user:1", tenant_id="acme")
    for _ in range(1000):
        reader.get("user:1", "acme")
    stats = reader.stats()
    assert 1000 <= stats.near_hits < stats.hits
    usage = CacheMonitor(reader).get_memory_usage()
    assert usage["hits"] == reader.stats().hits
    assert usage["tenants"]["acme"]["hits"] == usage["hits"]


def test_counts_go_to_the_fleet_though_every_read_is_served_of_a_copy(
    reader: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stoker.cache.traffic.FLUSH_EVERY_S", 0.1)
    monkeypatch.setattr("stoker.cache.near._TALLY_EVERY_S", 0.05)
    reader.set("k", 1)
    copied(reader, "k")
    served = reader.stats().near_hits

    def told() -> bool:
        reader.get("k")
        groups = reader._run(reader._core.backend.traffic())
        return sum(counts.hits for counts in groups.values()) > served + 5

    wait_until(told, 5)


def test_copies_are_shared_by_tasks_and_threads(cache_server: str, namespace: str) -> None:
    config = CacheConfig(backend="redis", redis_url=cache_server, namespace=namespace, near_size=10)

    async def main() -> None:
        async with AsyncCache(config) as alone:
            await alone.set("k", {"n": 1})
            while (await alone.explain("k"))["near"] != "served":
                await alone.get("k")
            hits = alone.stats().near_hits
            assert await alone.get("k") == {"n": 1}
            assert await alone.get_or_load("k", dict) == {"n": 1}
            assert await alone.get_many(["k"]) == {"k": {"n": 1}}
            assert alone.stats().near_hits == hits + 3
            began = time.monotonic()
            await alone.invalidate_pattern("k*", barrier=True)
            assert time.monotonic() - began >= BOUND_S
            assert await alone.get("k") is None

    asyncio.run(main())
    with Cache(config) as shared:
        shared.set("k", 2)
        copied(shared, "k")

        async def beside() -> None:
            async with AsyncCache(shared) as aio:
                assert await aio.get("k") == 2

        hits = shared.stats().near_hits
        asyncio.run(beside())
        assert shared.stats().near_hits == hits + 1
