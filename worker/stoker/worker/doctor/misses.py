"""Why reads miss: the fleet's hit rate, TTLs, and whether the namespace keeps beginning cold."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from stoker.cache import entry
from stoker.cache.bans import Control
from stoker.cache.keys import ShardKeys
from stoker.worker.doctor.check import Finding, note, ok, warning
from stoker.worker.doctor.server import Server
from stoker.worker.doctor.system import System
from stoker.worker.terminal import counted

ENOUGH_READS = 1000
"""Before that a hit rate says little: a cache begins empty."""
LOW_HIT_RATE = 0.5
SHORT_TTL_S = 10.0
SAMPLE = 300
"""Entries looked at for traces of earlier lives."""
COLD_SHARE = 0.1
"""Share of outdated entries that is worth a word."""


def check(system: System) -> Iterator[Finding]:
    yield _hit_rate(system.usage)
    ttl = system.settings.default_ttl
    if ttl is not None and ttl < SHORT_TTL_S:
        yield warning(
            f"STOKER_DEFAULT_TTL is {ttl:g} s",
            "entries expire before they are read again",
            "raise it, to minutes if you can: what changes is invalidated, it need not expire",
        )
    yield from _cold_starts(system)


def _hit_rate(usage: dict[str, Any]) -> Finding:
    reads, rate = usage["total_requests"], usage["hit_rate"]
    if reads < ENOUGH_READS:
        return note(f"{counted(reads, 'read')} so far: too few to judge the hit rate")
    told = f"{rate:.1%} of the fleet's {reads:,} reads were hits"
    if rate >= LOW_HIT_RATE:
        return ok(told)
    family, counts = max(usage["templates"].items(), key=lambda item: item[1]["misses"])
    return warning(
        f"{told}; most misses have {family}: {counts['hit_rate']:.1%} of {counts['hits'] + counts['misses']:,}",
        "what is read was never loaded, expires too soon, or is invalidated too broadly",
        f"warm what is read: send.warm(keys); give {family} a longer ttl; invalidate narrower patterns and tags; "
        "cache.explain(key) tells why one key is not served",
    )


class _Lives(NamedTuple):
    """Entries that were looked at; how many of them are of earlier lives of their ban log; and of how many such."""

    looked_at: int
    outdated: int
    earlier: int


def _cold_starts(system: System) -> Iterator[Finding]:
    lives = _sample_lives(system)
    if lives.outdated <= COLD_SHARE * lives.looked_at:
        return
    told = f"{lives.outdated} of {lives.looked_at} sampled entries are of earlier lives of the cache"
    if lives.earlier < 2:
        yield note(f"{told}: it began cold once", "a restart, fail-over or flush of the server")
        return
    yield warning(f"{told}: it began cold at least {lives.earlier} times", *_why_cold(system))


def _why_cold(system: System) -> tuple[str, str]:
    for server in system.cache_nodes:
        evicted = int(server.facts.get("evicted_keys", 0))
        if evicted and server.policy.startswith("allkeys"):
            return (
                f"the server at {server.address} evicted {counted(evicted, 'key')} under {server.policy}, "
                "control records among them",
                "CONFIG SET maxmemory-policy volatile-lfu; or more maxmemory",
            )
    youngest = min(system.cache_nodes, key=_uptime)
    return (
        f"the server restarts or fails over (it is up for {_uptime(youngest):,} s), its data is deleted, or two "
        "servers answer at one address",
        f"look at the server's log and at who answers at {youngest.address}; `begins cold` in the workers' "
        "log has the reason each time",
    )


def _uptime(server: Server) -> int:
    return int(server.facts.get("uptime_in_seconds", 0))


def _sample_lives(system: System) -> _Lives:
    stamps: list[tuple[int, bytes]] = []  # shard and incarnation of each entry
    ruling: dict[int, bytes] = {}
    for server, sampled in system.sample(SAMPLE):
        ruling |= _ruling(server.client, system.settings.namespace, set(sampled.values()))
        for shard, head in zip(sampled.values(), _heads(server.client, sampled), strict=True):
            meta = entry.unpack(head, whole=False) if isinstance(head, bytes) else None
            if meta is not None:
                stamps.append((shard, meta.incarnation))
    outdated = [(shard, life) for shard, life in stamps if life != ruling[shard]]
    lives_of = Counter(shard for shard, _ in set(outdated))
    return _Lives(len(stamps), len(outdated), max(lives_of.values(), default=0))


def _ruling(client: Any, namespace: str, shards: Iterable[int]) -> dict[int, bytes]:
    """The incarnation that rules in each of these shards; empty where there is none."""
    numbers = list(shards)
    reads = client.pipeline(transaction=False)
    for number in numbers:
        reads.get(ShardKeys(namespace, number).ctl)
    found = (Control.parse(raw) for raw in reads.execute())
    return {
        number: control.incarnation if control else b""
        for number, control in zip(numbers, found, strict=True)
    }


def _heads(client: Any, sampled: Iterable[bytes]) -> list[Any]:
    """The headers of the entries. To be looked at is not to be used, but Redis 7.0 has no NO-TOUCH."""
    reads = client.pipeline(transaction=False)
    reads.execute_command("CLIENT", "NO-TOUCH", "ON")
    for name in sampled:
        reads.getrange(name, 0, entry.HEADER_BYTES - 1)
    reads.execute_command("CLIENT", "NO-TOUCH", "OFF")
    return list(reads.execute(raise_on_error=False)[1:-1])
