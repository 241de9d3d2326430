"""The cache's server: reachable, new enough, a primary, with rights that are enough and a fitting policy."""

from collections.abc import Iterator
from secrets import token_hex
from time import perf_counter
from typing import Any

from redis.exceptions import NoPermissionError

from stoker.cache.keys import ShardKeys, traffic
from stoker.config import Settings
from stoker.worker.doctor import sentinels
from stoker.worker.doctor.check import Finding, error, note, ok, warning
from stoker.worker.doctor.server import LEAST_REDIS, LEAST_VALKEY, Server, replica
from stoker.worker.doctor.system import TENANT, System

SLOW_PING_MS = 5.0
_OF_NEAR_CACHE = (("ROLE",), ("CLIENT", "TRACKINGINFO"), ("CLIENT", "TRACKING", "OFF"))


def check(system: System) -> Iterator[Finding]:
    yield from sentinels.check("STOKER_CACHE_URL", system.settings.cache_url)
    yield from check_server(system.cache_server, system.settings)


def check_server(server: Server, settings: Settings) -> Iterator[Finding]:
    """The same of any server, such as a node of a cluster."""
    yield from _answers(server)
    if server.too_old:
        yield error(
            f"{server.version} is too old",
            f"scripts need Redis {_dotted(LEAST_REDIS)} or Valkey {_dotted(LEAST_VALKEY)}",
            "upgrade the server",
        )
    if server.is_replica:
        yield replica(server)
        return
    yield from _rights(
        server, settings.namespace, near=bool(settings.near_size), clustered=settings.cache_cluster
    )
    yield _policy(server, settings.beat.evict_every)


def _answers(server: Server) -> Iterator[Finding]:
    began = perf_counter()
    server.client.ping()
    took_ms = (perf_counter() - began) * 1000
    yield ok(f"{server.version} at {server.address} answers in {took_ms:.1f} ms")
    if not server.run_id:
        yield note(
            "the server hides its run_id",
            "a proxy or hosted service leaves it out of INFO",
            "restarts from an old dump are then noticed late; see 'Holes that remain' in docs/design.md",
        )


def _rights(server: Server, namespace: str, *, near: bool, clustered: bool) -> Iterator[Finding]:
    """Try every command that the cache needs, in a form without effect."""
    pipeline = server.client.pipeline(transaction=False)
    commands = [
        *_harmless(namespace),
        *(_OF_NEAR_CACHE if near else ()),
        *(_OF_A_CLUSTER if clustered else ()),
    ]
    for command in commands:
        pipeline.execute_command(*command)
    replies = pipeline.execute(raise_on_error=False)
    refused = {
        _name(command): str(reply)
        for command, reply in zip(commands, replies, strict=True)
        if isinstance(reply, NoPermissionError) or "NOPERM" in str(reply)
    }
    if not refused:
        yield ok(f"the user may run all {len({_name(c) for c in commands})} commands that the cache needs")
        return
    keys = any("key" in text for text in refused.values())
    yield error(
        f"the user may not run {', '.join(sorted(refused))}",
        "its ACL is too small" + (f"; the server says: {next(iter(refused.values()))}" if keys else ""),
        f"ACL SETUSER <user> ~{{{namespace}}}* ~{{{namespace}:* "
        + " ".join(f"+{name}" for name in sorted(refused))
        + "; 'Least ACL' in docs/operations.md lists them all",
    )


_OF_A_CLUSTER = [("CLUSTER", "INFO"), ("CLUSTER", "SLOTS")]


def _harmless(namespace: str) -> list[tuple[Any, ...]]:
    shard = ShardKeys(namespace)
    none = shard.lease(
        TENANT, f"acl:{token_hex(8)}"
    )  # a name that nobody uses: nothing is there to be changed
    return [
        ("PING",),
        ("TIME",),
        ("DBSIZE",),
        ("RANDOMKEY",),
        ("MGET", shard.map, shard.ctl),
        ("HGETALL", traffic(namespace)),
        ("SCAN", 0, "MATCH", none, "COUNT", 1),
        ("GET", none),
        ("SET", none, "", "XX"),
        ("ZADD", none, "XX", 1, ""),
        ("ZREM", none, ""),
        ("ZSCORE", none, ""),
        ("ZRANGE", none, 0, 0),
        ("ZCOUNT", none, 0, 0),
        ("ZRANGEBYSCORE", none, 0, 0),
        ("ZREMRANGEBYSCORE", none, 0, 0),
        ("DEL", none),
        ("UNLINK", none),
        ("PEXPIRE", none, 1),
        ("PTTL", none),
        ("GETRANGE", none, 0, 0),
        ("MEMORY", "USAGE", none),
        ("OBJECT", "IDLETIME", none),
        ("OBJECT", "FREQ", none),
        ("EVAL", "return 1", 1, none),
        ("EVALSHA", "0" * 40, 1, none),
        ("MULTI",),
        ("HINCRBY", none, "", 0),
        ("UNLINK", none),
        ("EXEC",),
    ]


def _name(command: tuple[Any, ...]) -> str:
    two_words = command[0] in ("CLIENT", "CLUSTER", "MEMORY", "OBJECT")
    return "|".join(command[: 2 if two_words else 1]).lower()


def _policy(server: Server, evict_every: float | None) -> Finding:
    policy = server.policy
    told = f"maxmemory-policy is {policy}"
    remedy = "CONFIG SET maxmemory-policy volatile-lfu, and the same in the server's configuration"
    if policy.startswith("allkeys-"):
        return warning(
            told,
            "under memory pressure the server may evict control records and ban logs too: then the whole cache "
            "begins cold (safe, but every entry becomes a miss)",
            remedy,
        )
    if policy == "noeviction":
        cause = "a full server refuses to store: `set` returns False and loads are not kept"
        if evict_every is None:
            return warning(
                f"{told}, and STOKER_BEAT__EVICT_EVERY is none", f"nobody makes room; {cause}", remedy
            )
        return note(told, f"room is made by stoker.evict alone, while it is too late {cause}", remedy)
    return ok(f"{told}: control records are never evicted")


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
