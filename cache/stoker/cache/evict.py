"""Memory pressure: bring the server's memory down to the low watermark, on Redis, at the least cost in loads.

`cut` says what goes, from a `sampling` of all; here is the walk that applies it. The walk begins anywhere and goes once
round, so that no part of the key space is judged more often than another. What it unlinks still has the stamp that was
judged. Safe to kill and to run twice.
"""

import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from random import getrandbits
from typing import Any

from stoker.cache import memory_use, quotas, sampling, scan
from stoker.cache.cut import OVER_QUOTA, REASONS, Cut, cut_for
from stoker.cache.memory_use import MemoryUse
from stoker.cache.options import CacheConfig
from stoker.cache.programs import Effect, Program, Sleep, Steps
from stoker.cache.sampling import Weighed
from stoker.cache.scan import Link, Name
from stoker.cache.steps import Step
from stoker.cache.tenancy import tenant_of
from stoker.cache.wire import Operation, together

PAGE = 128
"""Names of one look at the server, so that readers wait behind little."""
REST = 1.0
"""Pause after each page, as a share of the time it took; none above the high watermark."""
LONGEST_REST_S = 0.1
MOST_PASSES = 20
DEEPER = 1.1, 1.5
"""How much more than what is missing a cut is to free at first, as a sample may mislead; and by which factor each
further one more, as more came in meanwhile."""
_MOST_NAMES, OTHER = 100, "other"
_CURSOR_BITS = 64
FLOOD = 0.01
"""Of the limit: if memory rises by so much during a walk, it begins anew with a deeper cut."""
FIRST_LOOK_S, LEAST_LOOK_S = 0.25, 0.02
"""Between two looks of a guard: at most, and where memory rises fast at least."""


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
        over_quota: Entries dropped of tenants that had more than their quota.
        least_worth: Others dropped, those first whose loss costs least.
        freed: Bytes of what was dropped, by reason (as the fields above are called), the server's overhead included.
        freed_of: The same by tenant, the shared key space as ``""``; those beyond a hundred as ``"other"``.
        reason: Why it ended; of a cluster also which nodes did not answer, and what that means for quotas.
    """

    before_bytes: int = 0
    after_bytes: int = 0
    target_bytes: int | None = None
    scanned: int = 0
    dead: int = 0
    stale: int = 0
    over_quota: int = 0
    least_worth: int = 0
    freed: dict[str, int] = field(default_factory=dict)
    freed_of: dict[str, int] = field(default_factory=dict)
    reason: str = ""

    @property
    def dropped(self) -> int:
        """Entries that went."""
        return self.dead + self.stale + self.over_quota + self.least_worth


@dataclass(frozen=True, slots=True)
class _Walk:
    """One time round the server.

    Attributes:
        scan: The server's cursor.
        start: The cursor it began with.
        wraps: How often it has been at 0.
        cut: What goes, as JSON.
        begin: How names begin that can go; all others need no look.
        to_its_end: Whether it goes all the way round, because what a tenant has too much of may be anywhere.
        passes: Those before.
        deeper: How often the cut had to be made deeper, as more came in than went.
        used: Bytes that were used when it began.
        dropped: Entries that went by then.
        as_of_ms: When the cut was made; entries are judged by how they stood then.
    """

    scan: str
    start: int
    cut: dict[str, Any]
    to_its_end: bool
    begin: str = ""
    wraps: int = 0
    passes: int = 0
    deeper: int = 0
    used: int = 0
    dropped: int = 0
    as_of_ms: int = 0

    @property
    def round(self) -> bool:
        """Whether it is back where it began."""
        at = int(self.scan)
        if self.wraps > 1 or self.start == 0:  # which counted as a wrap when it began
            return self.wraps > 1
        return self.wraps == 1 and at != 0 and _way(at) >= _way(self.start)


def _way(cursor: int) -> int:
    """How far a SCAN is: it counts the bits of its cursor from the highest down, so reversed they only rise."""
    return int(f"{cursor:0{_CURSOR_BITS}b}"[::-1], 2)


def evict_steps(
    link: Link,
    config: CacheConfig,
    now_ms: Callable[[], int],
    target_bytes: int | None,
    batch: int,
    cursor: dict[str, Any] | None,
    stay: float = 0.0,
) -> Steps[EvictReport]:
    """Evict from the cache's server, yielding after each batch.

    Without `target_bytes` it acts only above the high watermark of `maxmemory`, and goes down to the low one; and
    takes from tenants what they have above their hard quotas.

    Args:
        stay: Seconds for which to look on after that, as long as memory rises so fast that the high mark is near.

    Raises:
        CacheUnavailable: The server cannot be asked.
    """
    if cursor and not cursor["walk"]:  # it had come to its end
        yield _step(EvictReport(**cursor["report"]), None, last=True)
        return
    walk: _Walk | None
    if cursor:
        report, walk = EvictReport(**cursor["report"]), _Walk(**cursor["walk"])
    else:
        report = yield _begin(config, target_bytes)
        report, walk = yield _plan(link, config, report, now_ms())
    while True:
        if walk is None and stay and target_bytes is None:
            report, walk = yield from _guard(link, config, now_ms, report, stay)
        if walk is None:
            yield _step(report, None, last=True)
            return
        report, walk = yield from _batch(link, config, walk, report, batch, now_ms)
        if walk is not None:
            yield _step(report, walk, last=False)


def _step(report: EvictReport, walk: _Walk | None, *, last: bool) -> Step[EvictReport]:
    """Progress is counted in bytes that had to go, since how many keys that takes is not known before."""
    cursor = {"report": asdict(report), "walk": asdict(walk) if walk else None}
    wanted = max(0, report.before_bytes - (report.target_bytes or report.before_bytes))
    freed = min(wanted, max(0, report.before_bytes - report.after_bytes))
    return Step(freed, wanted, 0, cursor, report, last)


def _begin(config: CacheConfig, target_bytes: int | None) -> Operation[EvictReport]:
    use = yield from memory_use.read()
    report = EvictReport(before_bytes=use.used, after_bytes=use.used, target_bytes=target_bytes)
    if target_bytes is not None:
        return replace(report, reason="below the target")
    if not use.limit:
        return replace(report, reason="the server has no maxmemory: set it, or give target_bytes")
    if use.used > use.limit * config.high_watermark:
        return replace(report, target_bytes=int(use.limit * config.low_watermark))
    return replace(report, reason="below the high watermark")


def _plan(
    link: Link, config: CacheConfig, report: EvictReport, now_ms: int, last: _Walk | None = None
) -> Operation[tuple[EvictReport, _Walk | None]]:
    """The next time round, if there is cause for one."""
    use = yield from memory_use.read()
    kept = yield from link.quotas()
    report = replace(report, after_bytes=use.used)
    need = use.used - report.target_bytes if report.target_bytes is not None else 0
    done = replace(report, reason="reached the target") if last and report.target_bytes else report
    if need <= 0 and not kept.any_hard:
        return done, None
    if last is not None and last.round and not last.dropped and need > 0:
        return replace(
            report, reason="dropped all it may; what is left is not this cache's, or is kept"
        ), None
    passes = last.passes + last.round if last else 0
    deeper = last.deeper + 1 if last else 0
    if passes > MOST_PASSES:
        return replace(report, reason=f"not done after {MOST_PASSES} times round"), None
    yield from together([shard.catch_up() for shard in link.shards])
    sample = yield from sampling.draw(link, sampling.SAMPLE, counted=use.counted)
    sizes = {tenant: share.bytes for tenant, share in sample.by_tenant().items()}
    room = quotas.room(sample.bytes, use.used, use.limit, config.low_watermark)
    over = quotas.over(kept, sizes, room)
    if need <= 0 and not over.hard:
        return done, None
    cut = cut_for(sample, max(0, need) * DEEPER[0] * DEEPER[1] ** deeper, over.soft, now_ms, over.hard)
    start = getrandbits(_CURSOR_BITS) if last is None else int(last.scan)
    walk = _Walk(
        scan=str(start),
        start=start,
        cut=cut.as_json(),
        to_its_end=bool(over.hard),
        begin=f"{next(iter(over.hard))}:" if need <= 0 and len(over.hard) == 1 else "",
        wraps=int(start == 0),
        passes=passes,
        deeper=deeper,
        used=use.used,
        as_of_ms=now_ms,
    )
    return replace(report, reason="" if need > 0 else "took from tenants what is above their quotas"), walk


def _batch(
    link: Link,
    config: CacheConfig,
    walk: _Walk | None,
    report: EvictReport,
    batch: int,
    now_ms: Callable[[], int],
) -> Program[tuple[EvictReport, _Walk | None]]:
    """About so many names of the walk, in pages. Returns the walk to go on with, if any."""
    use = yield memory_use.read()
    for _ in range(-(-batch // PAGE)):
        if walk is None:
            break
        began = time.monotonic()
        report, walk, use = yield _page(link, config, walk, report, min(batch, PAGE), use, now_ms())
        if use.share <= config.high_watermark:
            yield Sleep(min((time.monotonic() - began) * REST, LONGEST_REST_S))
    if walk is not None and use.used > walk.used + FLOOD * use.limit:
        report, walk = yield _plan(link, config, report, now_ms(), walk)
    return report, walk


def _page(
    link: Link, config: CacheConfig, walk: _Walk, report: EvictReport, names: int, use: MemoryUse, now_ms: int
) -> Operation[tuple[EvictReport, _Walk | None, MemoryUse]]:
    """A few names of the walk. Returns the walk to go on with, if any, and what is used then."""
    asked: list[Operation[Any]] = [scan.page(link, walk.scan, names, walk.begin)]
    asked += [shard.catch_up() for shard in link.shards]
    page, *_ = yield from together(asked)
    report, walk, use = yield from _drop(walk, report, scan.parsed(link, page.raws), use, now_ms)
    report = replace(report, scanned=report.scanned + len(page.raws), after_bytes=use.used)
    walk = replace(
        walk,
        scan=page.cursor.decode(),
        wraps=walk.wraps + (page.cursor == b"0"),
    )
    if report.target_bytes is not None and use.used <= report.target_bytes:
        if not walk.to_its_end:
            return replace(report, reason="reached the target"), None, use
        walk = replace(walk, cut=Cut.from_json(walk.cut).of_tenants().as_json())
    if not walk.round:
        return report, walk, use
    return *(yield from _plan(link, config, report, now_ms, walk)), use


def _drop(
    walk: _Walk, report: EvictReport, names: Sequence[Name], use: MemoryUse, now_ms: int
) -> Operation[tuple[EvictReport, _Walk, MemoryUse]]:
    chosen: dict[str, list[Weighed]] = {reason: [] for reason in REASONS}
    cut, aged_s = Cut.from_json(walk.cut), max(0, now_ms - walk.as_of_ms) / 1000
    for one in (yield from sampling.weigh(names, counted=use.counted, aged_s=aged_s)):
        reason = cut.reason(one, now_ms)
        if reason is not None:
            chosen[reason].append(one)
    groups = [[one.seen for one in chosen[reason]] for reason in REASONS]
    asked: list[Operation[Any]] = [scan.drop(group) for group in groups]
    asked.append(memory_use.read())
    *dropped, use = yield from together(asked)
    counts = {reason: one.entries for reason, one in zip(REASONS, dropped, strict=True)}
    gone = [(reason, one) for reason in REASONS for one in chosen[reason]]
    report = replace(
        report,
        freed=_added(report.freed, ((reason, one.size) for reason, one in gone)),
        freed_of=_added(report.freed_of, ((tenant_of(one.tenant) or "", one.size) for _, one in gone)),
        **{reason: getattr(report, reason) + count for reason, count in counts.items()},
    )
    left = cut.after(chosen[OVER_QUOTA]).as_json()
    return report, replace(walk, cut=left, dropped=walk.dropped + sum(counts.values())), use


def _added(before: Mapping[str, int], more: Iterable[tuple[str, int]]) -> dict[str, int]:
    found = dict(before)
    for name, size in more:
        known = name if name in found or len(found) < _MOST_NAMES else OTHER
        found[known] = found.get(known, 0) + size
    return found


def _guard(
    link: Link, config: CacheConfig, now_ms: Callable[[], int], report: EvictReport, stay: float
) -> Generator[Effect | Step[EvictReport], Any, tuple[EvictReport, _Walk | None]]:
    """Look on until memory is above the high mark again, or rises so slowly that the next scheduled look will do."""
    began, use = time.monotonic(), (yield memory_use.read())
    first, wait = use.used, FIRST_LOOK_S
    while use.limit:
        yield _step(report, None, last=False)
        yield Sleep(wait)
        use = yield memory_use.read()
        high = use.limit * config.high_watermark
        if use.used > high:
            again = replace(report, target_bytes=int(use.limit * config.low_watermark))
            planned: tuple[EvictReport, _Walk | None] = yield _plan(link, config, again, now_ms())
            return planned
        passed = time.monotonic() - began
        speed = (use.used - first) / passed
        if speed * stay < high - use.used or passed > stay:
            break
        wait = min(max((high - use.used) / speed / 4, LEAST_LOOK_S), FIRST_LOOK_S)
    return report, None
