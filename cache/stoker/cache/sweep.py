"""Physical deletion of what bans have killed, then retirement of the bans (rule 10), on Redis.

A ban takes effect when it is written; a sweep only gives memory back and keeps the ban log short. It may be killed
anywhere and run twice: each entry is unlinked only if its stamp still is the one that was judged, and bans retire only
after a complete pass over the same server, incarnation and boots.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from stoker.cache import scan, scripts
from stoker.cache.bans import Control
from stoker.cache.scan import Link
from stoker.cache.steps import Step
from stoker.cache.wire import Call

REST = 0.5
"""Pause after each batch, as a share of the time it took: foreground requests come first."""
LONGEST_REST_S = 0.1
MOST_RESTARTS = 3


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What a sweep did.

    Attributes:
        scanned: Entries looked at by name.
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
class _Pass:
    """One walk over a shard: what it may retire, of which ban log, and how far it is."""

    mark: str
    incarnation: str
    generation: int
    process: str
    every: bool
    total: int
    scan: str = "0"


def sweep_steps(link: Link, batch: int, cursor: dict[str, Any] | None) -> Iterator[Step[SweepReport]]:
    """Sweep a shard, yielding after each batch; `cursor` goes on with an earlier sweep.

    Raises:
        CacheUnavailable: The server cannot be asked; give the last step's cursor to go on later.
    """
    report, walk = _resume(cursor)
    while True:
        if walk is None:
            walk = _begin(link, report)
            if walk is None:
                yield _step(replace(report, complete=True), None, last=True)
                return
        began = time.monotonic()
        walk, report = _batch(link, walk, report, batch)
        if walk is not None and walk.scan == "0":
            retired = _retire(link, walk)
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
        time.sleep(min((time.monotonic() - began) * REST, LONGEST_REST_S))


def _resume(cursor: dict[str, Any] | None) -> tuple[SweepReport, _Pass | None]:
    if not cursor:
        return SweepReport(), None
    walk = cursor["walk"]
    return SweepReport(**cursor["report"]), _Pass(**walk) if walk else None


def _step(report: SweepReport, walk: _Pass | None, *, last: bool) -> Step[SweepReport]:
    cursor = {"report": asdict(report), "walk": asdict(walk) if walk else None}
    total = max(walk.total, report.scanned) if walk else report.scanned if last else None
    return Step(report.scanned, total, 0, cursor, report, last)


def _begin(link: Link, report: SweepReport) -> _Pass | None:
    """Close the mark, then see what there is to do; None if nothing is dead."""
    shard = link.shard
    view = link.run(shard.catch_up())
    answer = link.exchange(
        (
            Call(
                scripts.CLOSE,
                (shard.keys.ctl, shard.keys.marks),
                (shard.map.digest, least_mark_age_ms(shard.map.max_load_ms)),
            ),
            ("DBSIZE",),
        )
    )
    closed, total = answer.reply(0), answer.reply(1)
    if not closed:
        return None  # fenced a moment ago: nothing of the new incarnation is dead yet
    mark, raw = closed
    control = Control.parse(raw)
    view = link.run(shard.catch_up())
    if control is None or control.incarnation != view.control.incarnation:
        return None
    first = control.floor == 0  # entries of older incarnations may be anywhere
    if not first and len(view.bans) == 0:
        return None
    return _Pass(
        mark=mark.decode(),
        incarnation=control.incarnation.hex(),
        generation=control.generation,
        process=answer.process.decode(),
        every=first or view.bans.has_tags(),
        total=report.scanned + int(total),
    )


def least_mark_age_ms(max_load_ms: int) -> int:
    """How old a mark must be to be closed, so that no fill within its lease is refused. Safety does not rest on it."""
    return max_load_ms


def _batch(link: Link, walk: _Pass, report: SweepReport, batch: int) -> tuple[_Pass | None, SweepReport]:
    """One page. Returns no pass if it is not of the same ban log and server any more."""
    shard = link.shard
    page = scan.page(link, walk.scan, batch)
    view = link.run(shard.catch_up())
    same_log = (view.control.incarnation.hex(), view.control.generation) == (
        walk.incarnation,
        walk.generation,
    )
    if not same_log or page.process.decode() != walk.process:
        return None, report
    names = page.names if walk.every else [n for n in page.names if view.bans.kills(n[1], n[2], (), -1)]
    doomed = [seen for seen in scan.look(link, names) if scan.dead(shard, seen)]
    deleted = scan.drop(link, doomed)
    report = replace(
        report,
        scanned=report.scanned + len(page.names),
        deleted=report.deleted + deleted,
        freed_bytes=report.freed_bytes + sum(seen.size for seen in doomed),
    )
    return replace(walk, scan=page.cursor.decode()), report


def _retire(link: Link, walk: _Pass) -> int:
    """Drop the bans up to the mark; -1 if the pass does not count."""
    keys = link.shard.keys
    args = (link.shard.map.digest, walk.incarnation, walk.generation, walk.mark)
    return int(link.exchange((Call(scripts.RETIRE, (keys.ctl, keys.bans, keys.marks), args),)).reply())
