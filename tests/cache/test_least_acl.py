"""The ACL that docs/operations.md gives the cache's user is enough for everything the cache does."""

import re
from pathlib import Path
from typing import Any

import pytest
import redis

from stoker.cache import Cache, CacheConfig, CacheMonitor, LoadKey, hot_reports
from stoker.cache.loaders import Loader, Registry
from tests.cache.conftest import MakeCache
from tests.waiting import wait_until

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"


def knows(client: Any, command: str) -> bool:
    """Whether the server is new enough to have the command."""
    try:
        client.execute_command("ACL", "SETUSER", "probe", command)
    except redis.ResponseError:
        return False
    return True


def documented(client: Any) -> list[str]:
    """The commands that the page allows, as far as this server has them."""
    text = PAGE.read_text(encoding="utf-8")
    section = text[text.index("### Least ACL") :]
    commands = re.search(r"```\n(.*?)```", section, re.DOTALL)
    assert commands is not None
    return [command for command in commands[1].split() if knows(client, command)]


def allow(client: Any, namespace: str, commands: list[str]) -> None:
    """Let a user of the namespace's name run these on its keys, and nothing else."""
    rules = ["on", "nopass", f"~{{{namespace}}}*", f"~{{{namespace}:*", "-@all", *commands]
    client.execute_command("ACL", "SETUSER", namespace, *rules)


def load_items(keys: list[LoadKey]) -> dict[str, Any]:
    return {key.key: key.args["n"] for key in keys}


@pytest.mark.parametrize("lacking", ["+msetex", "+exists", "+rpushx", "+lrange"])
def test_a_warm_goes_on_without_the_commands_for_many_keys_at_once(
    client: Any, cache_server: str, namespace: str, lacking: str
) -> None:
    allow(client, namespace, [command for command in documented(client) if command != lacking])
    registry = Registry()
    registry.add(Loader("item:{n}", load_items, many=True, ttl=60))
    url = cache_server.replace("://", f"://{namespace}:x@")
    with Cache(CacheConfig(backend="redis", redis_url=url, namespace=namespace), registry=registry) as cache:
        for tenant in ("acme", "globex"):  # the second time it knows
            assert cache.warm([f"item:{n}" for n in range(300)], tenant).written == 300
            assert cache.get("item:7", tenant) == "7"
        assert cache.explain("item:7", "acme")["ttl_ms"] <= 60_000


def test_the_documented_acl_is_enough(
    make_redis: MakeCache, client: Any, cache_server: str, namespace: str
) -> None:
    allow(client, namespace, documented(client))
    cache = make_redis(
        redis_url=cache_server.replace("://", f"://{namespace}:x@"), lease=0.3, max_load=0.3, near_size=10
    )
    cache.set("k", 1, tags=["t"])
    assert cache.get_or_load("k", lambda: 2) == 1
    assert cache.get_or_load("l", lambda: 2) == 2
    assert cache.set("m", 3, token=cache.snapshot("m", hold=0.3))
    assert cache.explain("k")["state"] == "live"
    cache.invalidate_tags(["t"])
    for n in range(240):  # enough for the ban log to be shortened
        cache.invalidate_pattern(f"l?{n}")
    assert cache.stats().coalesced == 1
    assert cache.explain("k")["bans"] < 100
    assert cache.sweep().complete
    assert cache.evict(target_bytes=1).reason
    cache.delete("k")
    cache.set("n", 1)
    wait_until(lambda: cache.get("n") and cache.explain("n")["near"] == "served", 5)
    assert CacheMonitor(cache).get_memory_usage()["hits"] > 0
    assert hot_reports.collect(cache)
    assert cache.ping()
    assert cache.stats().unavailable == 0
    client.execute_command("ACL", "DELUSER", namespace, "probe")
