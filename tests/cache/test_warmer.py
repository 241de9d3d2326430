"""Warming from an asyncio program: loaders, functions, sync and async, and every failure told."""

import asyncio
from typing import Any

import pytest

from stoker.cache import Cache, CacheWarmer, CacheWarmingConfig
from stoker.cache.loaders import Loader, Registry
from tests.cache.conftest import MakeCache


@pytest.fixture
def make_cache(make_sync_cache: MakeCache) -> MakeCache:
    """The companions take a `Cache`."""
    return make_sync_cache


def popular() -> tuple[str, Any]:
    return "popular", ["tea", "jam"]


async def newest() -> tuple[str, Any]:
    await asyncio.sleep(0)
    return "newest", ["gin"]


def broken() -> tuple[str, Any]:
    raise RuntimeError("the database is on fire")


def run(warmer: CacheWarmer, tenant_id: str | None = None) -> Any:
    return asyncio.run(warmer.warm_cache(tenant_id=tenant_id))


def test_functions_sync_and_async_are_warmed(cache: Cache) -> None:
    warmer = CacheWarmer(cache, CacheWarmingConfig(warm_functions=[popular, newest]))
    report = run(warmer, "acme")
    assert (report.asked, report.written, report.failed) == (2, 2, 0)
    assert warmer.warmed_keys == ["popular", "newest"]
    assert warmer.errors == {}
    assert cache.get("popular", "acme") == ["tea", "jam"]
    assert cache.get("newest", "acme") == ["gin"]


def test_keys_go_to_their_function_or_to_their_loader(cache: Cache) -> None:
    def row(n: str) -> str:
        return f"row {n}"

    registry = Registry()
    registry.add(Loader("row:{n}", row))
    cache._core.registry = registry
    warmer = CacheWarmer(cache, CacheWarmingConfig(warm_keys=["row:1", "given", "nobody:1"]))
    warmer.add_warm_key("given", lambda: "by a function")
    report = run(warmer)
    assert (report.written, report.failed) == (2, 1)
    assert set(warmer.warmed_keys) == {"row:1", "given"}
    assert warmer.errors == {"nobody:1": "no loader is registered for it"}
    assert cache.get_many(["row:1", "given"]) == {"row:1": "row 1", "given": "by a function"}


def test_one_failure_holds_up_nothing_and_is_told(cache: Cache) -> None:
    warmer = CacheWarmer(cache, CacheWarmingConfig(warm_functions=[broken, popular]))
    warmer.add_warm_key("bad", broken)
    report = run(warmer)
    assert (report.written, report.failed) == (1, 2)
    assert warmer.errors == {
        "broken": "RuntimeError: the database is on fire",
        "bad": "RuntimeError: the database is on fire",
    }
    assert cache.get_or_load("bad", lambda: "loaded") == "loaded"  # nobody waits for the lease


def test_what_is_fresh_is_left(cache: Cache) -> None:
    cache.set("popular", "newer")
    warmer = CacheWarmer(cache, CacheWarmingConfig(warm_functions=[popular]))
    assert run(warmer).fresh == 1
    assert cache.get("popular") == "newer"
    assert warmer.warmed_keys == ["popular"]


def test_a_function_that_runs_before_its_key_is_known_runs_again_under_the_lease(cache: Cache) -> None:
    """What the first call loaded began before the lease: an invalidation in between would be lost."""
    versions = iter(range(10))

    def versioned() -> tuple[str, Any]:
        version = next(versions)
        if version == 0:
            cache.invalidate_pattern("*")
        return "k", version

    warmer = CacheWarmer(cache, CacheWarmingConfig(warm_functions=[versioned]))
    run(warmer)
    assert cache.get("k") == 1
    cache.delete("k")
    run(warmer)
    assert cache.get("k") == 2  # the key was known: one call


def test_a_value_invalidated_under_its_load_is_not_stored(cache: Cache) -> None:
    warmer = CacheWarmer(cache)
    warmer.add_warm_key("k", lambda: cache.invalidate_pattern("k"))
    report = run(warmer)
    assert report.refused == 1
    assert "invalidated" in warmer.errors["k"]
    assert cache.get("k", default="miss") == "miss"


def test_a_disabled_warmer_does_nothing(make_cache: MakeCache) -> None:
    cache = make_cache()
    warmer = CacheWarmer(cache, CacheWarmingConfig(enabled=False, warm_functions=[popular]))
    assert run(warmer).asked == 0
    assert cache.get("popular") is None
