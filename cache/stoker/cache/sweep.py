"""Physical deletion of what bans have killed, then retirement of the bans (rule 10), on Redis.

A ban takes effect when it is written; a sweep only gives memory back and keeps the ban log short. It may be killed
anywhere and run twice: each entry is unlinked only if its stamp still is the one that was judged, and bans retire only
after a complete pass over the same server, incarnation and boots.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from os.path import commonprefix
from typing import Any, NamedTuple

from msgspec import to_builtins

from stoker.cache import scan, scripts
from stoker.cache.bans import Control, View
from stoker.cache.programs import Sleep, Steps
from stoker.cache.protocol import Shard
from stoker.cache.scan import Dropped, Link, Old, Page
from stoker.cache.steps import Step
from stoker.cache.wire import Call, Operation, together

LEAST_REST_S, LONGEST_REST_S = 0.002, 0.1
"""Pauses, gathered until they are worth a sleep."""
MOST_RESTARTS = 3
_ROW = 8
"""Pages in a row that the server judges, before anything is made of them here."""


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What a sweep did.

    Attributes:
        scanned: Entries looked at by name; about as many, where the server left out those that no rule could name.
        deleted: Entries unlinked.
        freed_bytes: Their keys, headers and payloads; the server's own overhead comes on top.
        retired: Bans dropped from the ban log.
        restarts: How often the pass began anew because the server or its incarnation changed.
        complete: Whether a whole pass was made.
    """

    scanned: int = 0
    deleted: int = 0
    freed_bytes: int = 0
    retired: int = 0
    restarts: int = 0
    complete: bool = False


@dataclass(frozen=True, slots=True)
class _Log:
    """One shard's ban log at the start of a pass: what may retire, and of which log."""

    mark: str
    incarnation: str
    generation: int


@dataclass(frozen=True, slots=True)
class _Pass:
    """One walk over all shards: their logs, and up to where what was dead is gone.

    `every`: names alone do not tell what is dead.
    """

    logs: tuple[_Log, ...]
    process: str
    every: bool
    total: int
    scan: str = "0"


class _Judged(NamedTuple):
    """A page whose dead are still there: they go with or before the look at the next one. It is in no cursor."""

    following: str
    passed: int
    drop: Callable[[], Operation[Dropped]]


def sweep_steps(link: Link, batch: int, cursor: dict[str, Any] | None) -> Steps[SweepReport]:
    """Sweep all shards in one pass, yielding after each batch; `cursor` goes on with an earlier sweep.

    Raises:
        CacheUnavailable: The server cannot be asked; give the last step's cursor to go on later.
    """
    report, walk = _resume(cursor)
    judged: _Judged | None = None
    quickest, owed = math.inf, 0.0
    while True:
        if walk is None:
            walk = yield _begin(link, report)
            if walk is None:
                yield _step(replace(report, complete=True), None, last=True)
                return
        if judged is None:
            judged = _Judged(walk.scan, 0, partial(scan.drop, ()))
        began = time.monotonic()
        walk, judged, report, page = yield _batch(link, walk, judged, report, batch)
        if walk is not None and judged is None:
            retired = yield _retire(link, walk)
            if retired >= 0:
                report = replace(report, retired=report.retired + retired, complete=True)
                yield _step(report, None, last=True)
                return
            walk = None
        if walk is None:
            report = replace(report, restarts=report.restarts + 1)
            if report.restarts > MOST_RESTARTS:
                yield _step(report, None, last=True)
                return
        yield _step(report, walk, last=False)
        # What a page took longer than the quickest did, without the server being at work on it, it has waited for
        # others, as a rule: they come first.
        took = time.monotonic() - began - page.took
        quickest = min(quickest, took / page.pages)
        owed += took - quickest * page.pages
        if owed >= LEAST_REST_S:
            yield Sleep(min(owed, LONGEST_REST_S))
            owed = 0.0


def _resume(cursor: dict[str, Any] | None) -> tuple[SweepReport, _Pass | None]:
    if not cursor:
        return SweepReport(), None
    report, walk = SweepReport(**cursor["report"]), cursor["walk"]
    if not walk:  # a pass that was complete: another one follows it
        return replace(report, restarts=0, complete=False), None
    return report, _Pass(**{**walk, "logs": tuple(_Log(**log) for log in walk["logs"])})


def _step(report: SweepReport, walk: _Pass | None, *, last: bool) -> Step[SweepReport]:
    cursor = {"report": to_builtins(report), "walk": to_builtins(walk)}
    total = max(walk.total, report.scanned) if walk else report.scanned if last else None
    return Step(report.scanned, total, 0, cursor, report, last)


def _begin(link: Link, report: SweepReport) -> Operation[_Pass | None]:
    """Close the marks, then see what there is to do; None if nothing is dead."""
    yield from _catch_up(link)
    answer = yield (*(_close_call(shard) for shard in link.shards), ("DBSIZE",))
    total = answer.reply()
    closed = [answer.reply(i) for i in range(len(link.shards))]
    yield from _catch_up(link)
    if not all(closed):
        return None  # fenced a moment ago: nothing of the new incarnation is dead yet
    logs: list[_Log] = []
    every = busy = False
    for shard, (mark, raw) in zip(link.shards, closed, strict=True):
        control, view = Control.parse(raw), shard.view
        if control is None or control.incarnation != view.control.incarnation:
            return None
        logs.append(_Log(mark.decode(), control.incarnation.hex(), control.generation))
        first = control.floor == 0  # entries of older incarnations may be anywhere
        every = every or first or view.bans.has_tags()
        busy = busy or first or len(view.bans) > 0
    if not busy:
        return None
    return _Pass(tuple(logs), answer.process.decode(), every, report.scanned + int(total))


def _close_call(shard: Shard) -> Call:
    age = least_mark_age_ms(shard.agreement.map.max_load_ms)
    return Call(scripts.CLOSE, (shard.keys.ctl, shard.keys.marks), (shard.digest, age))


def _catch_up(link: Link) -> Operation[list[Any]]:
    return together(_looks(link))


def _looks(link: Link) -> list[Operation[Any]]:
    return [shard.catch_up() for shard in link.shards]


def least_mark_age_ms(max_load_ms: int) -> int:
    """How old a mark must be to be closed, so that no fill within its lease is refused. Safety does not rest on it."""
    return max_load_ms


def _batch(
    link: Link, walk: _Pass, before: _Judged, report: SweepReport, batch: int
) -> Operation[tuple[_Pass | None, _Judged | None, SweepReport, Page]]:
    """Drop the dead of the page before, and judge the one that follows; after the last there is none.

    Returns no pass if it is not of the same ban logs and server any more; and what was passed.
    """
    views = [shard.view for shard in link.shards]  # once: other threads may learn of new bans meanwhile
    by_name = not walk.every and all(map(_knows, views, walk.logs))
    begins = [view.bans.common_prefix() for view in views] if by_name else [""]
    begin = commonprefix(begins)  # noqa: RUF071 - these are no paths
    old = _older_than(views[0]) if by_name and len(views) == 1 else None
    # A view that is read after the page, and be it in the same round trip, is as new as any entry on it.
    if old is not None:
        dropped = yield from before.drop()
        page = yield from scan.drop_pages(link, before.following, batch, begin, old, _ROW)
        yield from _catch_up(link)
    else:
        scanned = scan.page(link, before.following, batch, begin)
        asked: list[Operation[Any]] = [before.drop(), scanned, *_looks(link)]
        dropped, page, *_ = yield from together(asked)
    gone = Dropped(dropped.entries + page.dropped.entries, dropped.bytes + page.dropped.bytes)
    report = _counted(report, gone, before.passed)
    if page.process.decode() != walk.process or not _same_logs(link, walk):
        return None, None, report, page
    names = scan.parsed(link, page.raws)
    if not walk.every:
        names = [name for name in names if name.shard.view.bans.kills(name.tenant, name.key, (), -1)]
    drop = partial(scan.drop, [seen for seen in (yield from scan.look(names)) if seen.dead()])
    # The server may have passed others by that no rule can name.
    most = min(batch * page.pages, walk.total - report.scanned)
    passed = page.names if walk.every else max(page.names, most)
    if page.cursor == b"0":  # at once, and on the same connection, that is, from the same process
        return walk, None, _counted(report, (yield from drop()), passed), page
    judged = _Judged(page.cursor.decode(), passed, drop)
    return replace(walk, scan=before.following), judged, report, page


def _counted(report: SweepReport, dropped: Dropped, passed: int = 0) -> SweepReport:
    return replace(
        report,
        scanned=report.scanned + passed,
        deleted=report.deleted + dropped.entries,
        freed_bytes=report.freed_bytes + dropped.bytes,
    )


def _older_than(view: View) -> Old | None:
    """What is dead by a view, if its bans are such that a script can judge by them."""
    bans = view.bans.as_prefixes()
    return None if bans is None else Old(view.control.incarnation, bans)


def _knows(view: View, log: _Log) -> bool:
    """Whether the view has all that is to retire; that of a process which goes on with another's pass may not."""
    return view.control.incarnation.hex() == log.incarnation and view.control.head >= int(log.mark)


def _same_logs(link: Link, walk: _Pass) -> bool:
    now = [(shard.view.control.incarnation.hex(), shard.view.control.generation) for shard in link.shards]
    return now == [(log.incarnation, log.generation) for log in walk.logs]


def _retire(link: Link, walk: _Pass) -> Operation[int]:
    """Drop the bans up to the marks; -1 if the pass does not count for some shard."""
    answer = yield tuple(_retire_call(shard, log) for shard, log in zip(link.shards, walk.logs, strict=True))
    retired = [int(answer.reply(i)) for i in range(len(link.shards))]
    return -1 if min(retired) < 0 else sum(retired)


def _retire_call(shard: Shard, log: _Log) -> Call:
    keys = shard.keys
    args = (shard.digest, log.incarnation, log.generation, log.mark)
    return Call(scripts.RETIRE, (keys.ctl, keys.bans, keys.marks), args)
