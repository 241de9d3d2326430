"""What the surrounding program is told, and what happens when it fails."""

from contextlib import suppress
from typing import Any

import pytest

from stoker.cache import Cache, CacheConfig, Hooks
from stoker.cache.keys import ShardKeys
from stoker.cache.loaders import Loader, RefreshIn, Registry
from tests.waiting import wait_until

Asked = list[tuple[str, str | None]]


def registry_of(refresh_in: RefreshIn = "worker") -> tuple[Registry, list[int]]:
    loads: list[int] = []

    def load(n: int) -> int:
        loads.append(n)
        return len(loads)

    registry = Registry()
    registry.add(Loader("k:{n}", load, ttl=60, soft_ttl=0.01, refresh_in=refresh_in))
    return registry, loads


def test_a_stale_entry_is_handed_to_a_worker_once_for_all_readers(cache_server: str, namespace: str) -> None:
    asked: Asked = []
    registry, loads = registry_of()
    config = CacheConfig(backend="redis", redis_url=cache_server, namespace=namespace)
    hooks = Hooks(on_refresh=lambda key, tenant_id: asked.append((key, tenant_id)))
    with (
        Cache(config, hooks=hooks, registry=registry) as one,
        Cache(config, hooks=hooks, registry=registry) as other,
    ):
        assert one.get_or_load("k:1", tenant_id="acme") == 1
        wait_until(lambda: one.get_or_load("k:1", tenant_id="acme") == 1 and asked)
        for _ in range(20):
            assert one.get_or_load("k:1", tenant_id="acme") == other.get_or_load("k:1", tenant_id="acme") == 1
        assert (asked, loads) == ([("k:1", "acme")], [1])
        one.refresh("k:1", "acme")  # what the worker does
        assert other.get("k:1", "acme") == 2
        assert one.stats().lost_refreshes == 0


def test_a_refresh_that_no_worker_made_is_asked_for_again_and_counted(
    cache_server: str, namespace: str
) -> None:
    asked: Asked = []
    registry, _ = registry_of()
    config = CacheConfig(backend="redis", redis_url=cache_server, namespace=namespace, lease=0.2)
    hooks = Hooks(on_refresh=lambda key, tenant_id: asked.append((key, tenant_id)))
    with Cache(config, hooks=hooks, registry=registry) as cache:
        cache.get_or_load("k:1")
        wait_until(lambda: cache.get_or_load("k:1") == 1 and len(asked) > 1)
        assert cache.stats().lost_refreshes > 0


@pytest.mark.parametrize("how", ["no loader is registered", "its loader says so", "the hook fails"])
def test_where_no_worker_can_it_is_refreshed_here(how: str) -> None:
    def ask(*_: object) -> None:
        assert how == "the hook fails"
        raise RuntimeError("no broker")

    registry, loads = registry_of("process" if how == "its loader says so" else "worker")
    key = "other:1" if how == "no loader is registered" else "k:1"
    with Cache(hooks=Hooks(on_refresh=ask), registry=registry) as cache:
        cache.get_or_load(key, lambda: loads.append(1) or len(loads), ttl=60, soft_ttl=0.01)  # type: ignore[func-returns-value]
        wait_until(
            lambda: cache.get_or_load(key, lambda: loads.append(1) or len(loads), ttl=60, soft_ttl=0.01) > 1  # type: ignore[func-returns-value]
        )


def test_without_stale_on_error_a_value_that_could_not_be_refreshed_is_dropped(cache: Cache) -> None:
    answers = iter(["old"])

    def load(n: int) -> str:
        try:
            return next(answers)
        except StopIteration:
            raise RuntimeError(f"the origin of {n} is down") from None

    cache._core.registry.add(Loader("strict:{n}", load, ttl=60, soft_ttl=0.01, stale_on_error=False))
    assert cache.get_or_load("strict:1") == "old"
    with suppress(RuntimeError):
        wait_until(lambda: cache.get_or_load("strict:1") != "old")
    assert cache.get("strict:1") is None


def test_a_new_life_of_the_ban_log_is_told_with_its_reason(
    cache_server: str, namespace: str, client: Any
) -> None:
    told: list[tuple[str, Any]] = []
    config = CacheConfig(backend="redis", redis_url=cache_server, namespace=namespace)
    with Cache(config, hooks=Hooks(on_event=lambda name, facts: told.append((name, dict(facts))))) as cache:
        cache.set("k", 1)
        client.delete(ShardKeys(namespace).bans)
        cache.invalidate_pattern("x*")
    assert [name for name, _ in told] == ["cache.cold", "cache.cold"]
    assert [set(facts) for _, facts in told] == [{"namespace", "shard", "reason", "incarnation"}] * 2
    assert (told[0][1]["namespace"], told[0][1]["shard"], told[0][1]["reason"]) == (namespace, 0, "missing")
    assert told[0][1]["incarnation"] != told[1][1]["incarnation"] == cache.explain("k")["incarnation"]


def test_a_hook_that_fails_is_logged_and_the_read_goes_on(
    cache_server: str, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no broker")

    config = CacheConfig(backend="redis", redis_url=cache_server, namespace=namespace)
    with Cache(config, hooks=Hooks(on_event=fail)) as cache:
        cache.set("k", "value")
        assert cache.get("k") == "value"
    assert "the on_event hook failed for cache.cold" in caplog.text
