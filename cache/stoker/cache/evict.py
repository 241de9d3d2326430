"""Memory pressure: bring the server's memory down to the low watermark, on Redis.

First pass: what is dead, then what is past its soft expiry. Second pass: the longest unread (the least frequently read,
where the server's policy counts reads), until the mark is reached. Safe to kill and to run twice.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from stoker.cache import scan
from stoker.cache.options import CacheConfig
from stoker.cache.programs import Steps
from stoker.cache.scan import Link, Seen
from stoker.cache.steps import Step
from stoker.cache.wire import Operation, together

_BUCKETS = 40


@dataclass(frozen=True, slots=True)
class EvictReport:
    """What an eviction did; sizes in bytes.

    Attributes:
        before_bytes: Used memory at the start (the memory backend without `max_bytes`: entries).
        after_bytes: Used memory at the end (likewise).
        target_bytes: Where it was to stop; None if there was nothing to do.
        scanned: Entries looked at.
        dead: Banned or outdated entries dropped.
        stale: Entries past their soft expiry dropped.
        unread: Live entries dropped, longest unread first.
        reason: Why it ended.
    """

    before_bytes: int = 0
    after_bytes: int = 0
    target_bytes: int | None = None
    scanned: int = 0
    dead: int = 0
    stale: int = 0
    unread: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Walk:
    """Where an eviction stands.

    `target` is in bytes, `idle` a histogram of live bytes by log2 of disuse, `least` the bucket from which to drop.
    """

    scan: str
    target: int
    idle: tuple[int, ...] = (0,) * _BUCKETS
    least: int | None = None


def evict_steps(
    link: Link,
    config: CacheConfig,
    now_ms: Callable[[], int],
    target_bytes: int | None,
    batch: int,
    cursor: dict[str, Any] | None,
) -> Steps[EvictReport]:
    """Evict from the cache's server, yielding after each batch.

    Without `target_bytes` it acts only above the high watermark of `maxmemory`, and goes down to the low one.

    Raises:
        CacheUnavailable: The server cannot be asked.
    """
    if cursor and not cursor["walk"]:  # it had come to its end
        yield _step(EvictReport(**cursor["report"]), None)
        return
    if cursor:
        report, walk = EvictReport(**cursor["report"]), _Walk(**cursor["walk"])
    else:
        report = yield _measure(config, target_bytes)
        if report.target_bytes is None or report.reason:
            yield _step(report, None)
            return
        yield together([shard.catch_up() for shard in link.shards])
        walk = _Walk("0", report.target_bytes)
    while True:
        walk, report = yield _batch(link, walk, report, batch, now_ms())
        if report.after_bytes <= walk.target:
            yield _step(replace(report, reason="reached the target"), None)
            return
        if walk.scan == "0":
            if walk.least is not None:
                yield _step(
                    replace(report, reason="dropped all it may; what is left is not this cache's"), None
                )
                return
            walk = replace(walk, least=_threshold(walk.idle, report.after_bytes - walk.target))
        yield _step(report, walk)


def _step(report: EvictReport, walk: _Walk | None) -> Step[EvictReport]:
    """Progress is counted in bytes that had to go, since how many keys that takes is not known before."""
    cursor = {"report": asdict(report), "walk": asdict(walk) if walk else None}
    wanted = max(0, report.before_bytes - (report.target_bytes or report.before_bytes))
    freed = min(wanted, max(0, report.before_bytes - report.after_bytes))
    return Step(freed, wanted, 0, cursor, report, walk is None)


def used_memory() -> Operation[tuple[int, int]]:
    """(bytes that count for eviction, maxmemory or 0)."""
    facts = server_facts((yield (("INFO", "memory"),)).reply())
    return facts["used_memory"] - facts.get("mem_not_counted_for_evict", 0), facts.get("maxmemory", 0)


def server_facts(info: bytes) -> dict[str, int]:
    """The whole numbers of an INFO answer."""
    pairs = (line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    return {name: int(value) for name, value in pairs if value.isdigit()}


def _measure(config: CacheConfig, target_bytes: int | None) -> Operation[EvictReport]:
    used, limit = yield from used_memory()
    report = EvictReport(before_bytes=used, after_bytes=used)
    if target_bytes is None:
        if not limit:
            return replace(report, reason="the server has no maxmemory: set it, or give target_bytes")
        if used <= limit * config.high_watermark:
            return replace(report, reason="below the high watermark")
        target_bytes = int(limit * config.low_watermark)
    if used <= target_bytes:
        return replace(report, target_bytes=target_bytes, reason="below the target")
    return replace(report, target_bytes=target_bytes)


def _batch(
    link: Link, walk: _Walk, report: EvictReport, batch: int, now_ms: int
) -> Operation[tuple[_Walk, EvictReport]]:
    page = yield from scan.page(link, walk.scan, batch)
    names = scan.parsed(link, page.raws)
    seen = yield from scan.look(names)
    dead = [one for one in seen if one.dead()]
    gone = {one.name.raw for one in dead}
    stale = [one for one in seen if one.name.raw not in gone and 0 < one.meta.soft_ms <= now_ms]
    gone.update(one.name.raw for one in stale)
    live = [one for one in seen if one.name.raw not in gone]
    disuse = yield from _disuse(live)
    idle = list(walk.idle)
    for one, bucket in zip(live, disuse, strict=True):
        idle[bucket] += one.size
    unread: list[Seen] = []
    if walk.least is not None:
        unread = [one for one, bucket in zip(live, disuse, strict=True) if bucket >= walk.least]
    report = replace(
        report,
        scanned=report.scanned + len(names),
        dead=report.dead + (yield from scan.drop(dead)).entries,
        stale=report.stale + (yield from scan.drop(stale)).entries,
        unread=report.unread + (yield from scan.drop(unread)).entries,
    )
    used, _ = yield from used_memory()
    return replace(walk, scan=page.cursor.decode(), idle=tuple(idle)), replace(report, after_bytes=used)


def _disuse(live: list[Seen]) -> Operation[list[int]]:
    """Bucket of each entry, 0 the most used: log2 of seconds unread, or of reads missed under an LFU policy."""
    if not live:
        return []
    answer = yield tuple(("OBJECT", "IDLETIME", one.name.raw) for one in live)
    if any(isinstance(reply, Exception) for reply in answer.replies):
        answer = yield tuple(("OBJECT", "FREQ", one.name.raw) for one in live)
        return [
            (255 - reply) * (_BUCKETS - 1) // 255 if isinstance(reply, int) else 0 for reply in answer.replies
        ]
    return [
        min(reply.bit_length(), _BUCKETS - 1) if isinstance(reply, int) else 0 for reply in answer.replies
    ]


def _threshold(idle: tuple[int, ...], wanted: int) -> int:
    """The bucket from which to drop so that about `wanted` bytes go, from the least used down."""
    freed = 0
    for bucket in range(_BUCKETS - 1, 0, -1):
        freed += idle[bucket]
        if freed >= wanted:
            return bucket
    return 0
