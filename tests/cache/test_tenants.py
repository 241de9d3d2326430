"""Tenants never meet, whatever they are called."""

import pytest

from stoker.cache import Cache, InvalidName
from tests.cache.conftest import MakeCache
from tests.waiting import wait_until

HOSTILE = [
    "a",
    "*",
    "a*",
    "a:b",
    "a:",
    "{x}",
    "a}b",
    "%",
    "%61",
    "a?",
    "[a]",
    "a\nb",
    "a|b",
    "é",
    "🔥",
    "a b",
    "\x00",
    "A",
    "\\a",
]


@pytest.fixture
def filled(cache: Cache) -> Cache:
    """Every tenant has the same keys, each with its own name as the value."""
    for tenant in (None, *HOSTILE):
        cache.set_many({"user:1": tenant, "b:user:1": tenant}, tenant, tags=["users"])
    return cache


def test_every_tenant_reads_its_own(filled: Cache) -> None:
    for tenant in (None, *HOSTILE):
        assert filled.get("user:1", tenant, default="miss") == tenant
        assert filled.get_many(["user:1", "b:user:1"], tenant) == {"user:1": tenant, "b:user:1": tenant}
        assert filled.get_or_load("user:1", lambda: "loaded", tenant) == tenant


@pytest.mark.parametrize(
    "operation", ["delete", "tenant", "tag", "prefix", "pattern", "star", "set", "token"]
)
def test_what_is_done_to_one_tenant_is_not_done_to_another(make_cache: MakeCache, operation: str) -> None:
    cache = make_cache()
    for victim in (None, *HOSTILE):
        for tenant in (None, *HOSTILE):
            cache.set("user:1", tenant, tenant, tags=["users"])
        match operation:
            case "delete":
                cache.delete("user:1", victim)
            case "tenant":
                cache.invalidate_tenant(victim)
            case "tag":
                cache.invalidate_tags(["users"], victim)
            case "prefix":
                cache.invalidate_pattern("user:*", victim)
            case "pattern":
                cache.invalidate_pattern("*:?", victim)
            case "star":
                cache.invalidate_pattern("*", victim)
            case "set":
                cache.set("user:1", "changed", victim)
            case "token":
                cache.set("user:1", "changed", victim, token=cache.snapshot("user:1", victim))
        changed = "changed" if operation in ("set", "token") else "miss"
        for tenant in (None, *HOSTILE):
            expected = changed if tenant == victim else tenant
            assert cache.get("user:1", tenant, default="miss") == expected, (operation, victim, tenant)


def test_sweeping_one_tenants_dead_leaves_the_others(make_cache: MakeCache) -> None:
    cache = make_cache(max_load=0.1, lease=0.1)
    for tenant in (None, *HOSTILE):
        cache.set("user:1", tenant, tenant)
    cache.invalidate_tenant("a")
    cache.invalidate_pattern("user:*", "*")
    wait_until(lambda: cache.sweep().complete and cache.explain("user:1")["bans"] == 0)
    alive = {t for t in (None, *HOSTILE) if cache.get("user:1", t, default="miss") == t}
    assert alive == {None, *HOSTILE} - {"a", "*"}


def test_what_cannot_be_a_tenant_is_refused_whatever_it_is(cache: Cache) -> None:
    for tenant in (["acme"], {"acme": 1}, 7, b"acme", ""):
        with pytest.raises(InvalidName, match="tenant_id"):
            cache.get("k", tenant)  # type: ignore[arg-type]
