"""The ACL that docs/operations.md gives the cache's user is enough for everything the cache does."""

import re
from pathlib import Path
from typing import Any

import redis

from stoker.cache import CacheMonitor, hot_reports
from tests.cache.conftest import MakeCache

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"


def knows(client: Any, command: str) -> bool:
    """Whether the server is new enough to have the command."""
    try:
        client.execute_command("ACL", "SETUSER", "probe", command)
    except redis.ResponseError:
        return False
    return True


def test_the_documented_acl_is_enough(
    make_redis: MakeCache, client: Any, cache_server: str, namespace: str
) -> None:
    text = PAGE.read_text(encoding="utf-8")
    section = text[text.index("### Least ACL") :]
    commands = re.search(r"```\n(.*?)```", section, re.DOTALL)
    assert commands is not None
    known = [command for command in commands[1].split() if knows(client, command)]
    rules = ["on", "nopass", f"~{{{namespace}}}*", f"~{{{namespace}:*", "-@all", *known]
    client.execute_command("ACL", "SETUSER", namespace, *rules)
    cache = make_redis(redis_url=cache_server.replace("://", f"://{namespace}:x@"), lease=0.3, max_load=0.3)
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
    assert CacheMonitor(cache).get_memory_usage()["hits"] > 0
    assert hot_reports.collect(cache)
    assert cache.ping()
    assert cache.stats().unavailable == 0
    client.execute_command("ACL", "DELUSER", namespace, "probe")
