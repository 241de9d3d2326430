"""Physical deletion of what bans have killed, then retirement of the bans (rule 10), on Redis.

A ban takes effect when it is written; a sweep only gives memory back and keeps the ban log short. It may be killed
anywhere and run twice: each entry is unlinked only if its stamp still is the one that was judged, and bans retire only
after a complete pass over the same server, incarnation and boots.
"""

import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from stoker.cache import scan, scripts
from stoker.cache.bans import Control
from stoker.cache.programs import Sleep, Steps
from stoker.cache.protocol import Shard
from stoker.cache.scan import Link
from stoker.cache.steps import Step
from stoker.cache.wire import Call, Operation, together

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
class _Log:
    """One shard's ban log at the start of a pass: what may retire, and of which log."""

    mark: str
    incarnation: str
    generation: int


@dataclass(frozen=True, slots=True)
class _Pass:
    """One walk over all shards: their logs, and how far it is. `every`: names alone do not tell what is dead."""

    logs: tuple[_Log, ...]
    process: str
    every: bool
    total: int
    scan: str = "0"


def sweep_steps(link: Link, batch: int, cursor: dict[str, Any] | None) -> Steps[SweepReport]:
    """Sweep all shards in one pass, yielding after each batch; `cursor` goes on with an earlier sweep.

    Raises:
        CacheUnavailable: The server cannot be asked; give the last step's cursor to go on later.
    """
    report, walk = _resume(cursor)
    while True:
        if walk is None:
            walk = yield _begin(link, report)
            if walk is None:
                yield _step(replace(report, complete=True), None, last=True)
                return
        began = time.monotonic()
        walk, report = yield _batch(link, walk, report, batch)
        if walk is not None and walk.scan == "0":
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
        yield Sleep(min((time.monotonic() - began) * REST, LONGEST_REST_S))


def _resume(cursor: dict[str, Any] | None) -> tuple[SweepReport, _Pass | None]:
    if not cursor:
        return SweepReport(), None
    report, walk = SweepReport(**cursor["report"]), cursor["walk"]
    if not walk:  # a pass that was complete: another one follows it
        return replace(report, restarts=0, complete=False), None
    return report, _Pass(**{**walk, "logs": tuple(_Log(**log) for log in walk["logs"])})


def _step(report: SweepReport, walk: _Pass | None, *, last: bool) -> Step[SweepReport]:
    cursor = {"report": asdict(report), "walk": asdict(walk) if walk else None}
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


def _concerned(link: Link, raws: list[bytes]) -> list[bytes]:
    """Those names that begin as every rule says, which is seen before they are taken apart; of one shard only."""
    if len(link.shards) > 1:
        return raws
    [shard] = link.shards
    begin = shard.keys.entry_prefix + shard.view.bans.common_prefix()
    return [raw for raw in raws if raw.startswith(begin.encode())]


def least_mark_age_ms(max_load_ms: int) -> int:
    """How old a mark must be to be closed, so that no fill within its lease is refused. Safety does not rest on it."""
    return max_load_ms


def _batch(
    link: Link, walk: _Pass, report: SweepReport, batch: int
) -> Operation[tuple[_Pass | None, SweepReport]]:
    """One page. Returns no pass if it is not of the same ban logs and server any more."""
    # In one round trip, and in this order: a view that is read later is as new as any entry of the page.
    page = (yield from together([scan.page(link, walk.scan, batch), *_looks(link)]))[0]
    if page.process.decode() != walk.process or not _same_logs(link, walk):
        return None, report
    names = scan.parsed(link, page.raws if walk.every else _concerned(link, page.raws))
    if not walk.every:
        names = [name for name in names if name.shard.view.bans.kills(name.tenant, name.key, (), -1)]
    doomed = [seen for seen in (yield from scan.look(names)) if seen.dead()]
    deleted = yield from scan.drop(doomed)
    report = replace(
        report,
        scanned=report.scanned + len(page.raws),
        deleted=report.deleted + deleted,
        freed_bytes=report.freed_bytes + sum(seen.size for seen in doomed),
    )
    return replace(walk, scan=page.cursor.decode()), report


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
