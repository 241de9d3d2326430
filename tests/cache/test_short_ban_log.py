"""Many invalidations of one tenant become one, are counted and told; failing at that fails no invalidation."""

from typing import Any

import pytest

from stoker.cache import Cache, CacheConfig, CacheSharder, CacheShardingConfig, Hooks, scripts
from stoker.cache.scripts import Script
from tests.cache.conftest import MakeCache

PATTERNS = 240
"""Above the 200 that a tenant may have, and the 32 invalidations until somebody looks."""


@pytest.mark.parametrize("shards", [1, 3])
def test_a_tenant_with_too_many_patterns_is_banned_as_a_whole(
    cache_server: str, namespace: str, client: Any, shards: int
) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    hooks = Hooks(on_event=lambda name, facts: told.append((name, dict(facts))))
    config = CacheConfig(backend="redis", redis_url=cache_server, namespace=namespace)
    with Cache(config, hooks=hooks) as cache:
        CacheSharder(cache, CacheShardingConfig(enabled=shards > 1, num_shards=shards))
        cache.set("k", 1, "acme")
        cache.set("k", 1, "globex")
        for n in range(PATTERNS):
            cache.invalidate_pattern(f"?{n}", "acme")
        assert (cache.get("k", "acme"), cache.get("k", "globex")) == (None, 1)
        assert cache.stats().coalesced == shards
        assert cache.stats().invalidations == PATTERNS
    assert client.zcard(f"{{{namespace}:0}}:bans") < PATTERNS / 2
    names = [name for name, _ in told]
    assert names.count("bans.coalesced") == shards
    assert "bans.many" in names
    facts = dict(told)["bans.coalesced"]
    assert facts["tenant_id"] == "acme"
    assert facts["rules"] > 200


def test_what_fails_after_the_acknowledgement_is_no_failure_of_it(
    make_redis: MakeCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(scripts, "PRUNE", Script("prune", b"#!lua\nreturn redis.error_reply('ERR no')"))
    cache = make_redis()
    for n in range(PATTERNS):
        cache.invalidate_pattern(f"?{n}")
    assert cache.stats().invalidations == PATTERNS
    assert "the ban log was not kept short" in caplog.text


def test_in_memory_a_token_that_is_held_for_long_keeps_no_more_bans_alive() -> None:
    cache = Cache()
    cache.snapshot("x", hold=30)
    cache.set("k", 1)
    cache.set("k", 1, "acme")
    for n in range(PATTERNS):
        cache.invalidate_pattern(f"?{n}")
    assert (cache.get("k"), cache.get("k", "acme")) == (None, 1)
    assert cache.stats().coalesced == 1
    assert cache.explain("k")["bans"] <= PATTERNS - 200
