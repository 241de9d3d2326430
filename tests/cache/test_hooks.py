"""What the surrounding program is told, and what happens when it fails."""

from typing import Any

import pytest

from stoker.cache import Cache, CacheConfig, Hooks
from stoker.cache.keys import ShardKeys
from tests.waiting import wait_until


def test_a_stale_entry_is_handed_to_the_hook_instead_of_being_refreshed_here() -> None:
    asked: list[tuple[str, str | None]] = []
    loads: list[int] = []
    with Cache(hooks=Hooks(on_refresh=lambda key, tenant_id: asked.append((key, tenant_id)))) as cache:
        cache.get_or_load("k", lambda: loads.append(1), "acme", soft_ttl=0.01)
        wait_until(lambda: cache.get_or_load("k", lambda: loads.append(1), "acme", soft_ttl=0.01) or asked)
    assert asked[0] == ("k", "acme")
    assert len(loads) == 1


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
    assert told[0][1] == {"namespace": namespace, "shard": 0, "reason": "missing"}


def test_a_hook_that_fails_is_logged_and_the_read_goes_on(
    cache_server: str, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no broker")

    config = CacheConfig(backend="redis", redis_url=cache_server, namespace=namespace)
    with Cache(config, hooks=Hooks(on_refresh=fail, on_event=fail)) as cache:
        cache.set("k", "value", soft_ttl=0.01)
        wait_until(lambda: cache.get_or_load("k", lambda: "new") == "value" and "on_refresh" in caplog.text)
    assert "the on_event hook failed for cache.cold" in caplog.text
