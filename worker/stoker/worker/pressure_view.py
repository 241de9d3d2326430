"""`stoker pressure`: how full the cache's server has been lately, and whose its entries are, drawn or as JSON."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from stoker.tasks.pressure_store import Composition, Point, Row
from stoker.tasks.runtime import Runtime
from stoker.worker.terminal import counted, printable

COLUMNS = 60
"""Of the drawing."""
_BARS = "▁▂▃▄▅▆▇█"
_MOST_ROWS = 15


@dataclass(frozen=True, slots=True)
class Pressure:
    """What is known.

    Attributes:
        points: Looks, oldest first.
        marks: High and low watermark, as shares.
    """

    points: Sequence[Point]
    composition: Composition | None
    marks: tuple[float, float]
    now: float


def look(here: Runtime) -> Pressure:
    """What looks have written down.

    Raises:
        StateUnavailable: The state server does not answer.
    """
    settings = here.settings
    marks = settings.high_watermark, settings.low_watermark
    return Pressure(here.pressure.points()[::-1], here.pressure.composition(), marks, time.time())


def as_json(found: Pressure) -> dict[str, Any]:
    """The same for programs; `full_in` is in seconds, None: memory does not rise."""
    points = [
        {**msgspec.to_builtins(point), "share": point.share, "full_in": point.full_in()}
        for point in found.points
    ]
    high, low = found.marks
    composition = msgspec.to_builtins(found.composition) if found.composition else None
    return {"high": high, "low": low, "points": points, "composition": composition}


def table(found: Pressure) -> RenderableType:
    """A drawing of the shares, the latest figures, and a table of tenants and one of families."""
    if not found.points:
        return Text(
            "nothing is known yet: memory is looked at by a worker that serves the queue maintenance, with "
            "`stoker beat` running"
        )
    parts: list[RenderableType] = [*_lines(found)]
    if found.composition is not None:
        whole = found.composition
        without = f", without {', '.join(whole.missing)}" if whole.missing else ""
        parts.append(
            Text(
                f"\n{counted(whole.entries, 'entry')}, {_size(whole.bytes)}, by a sample of {whole.sampled:,} "
                f"{found.now - whole.at:.0f} s ago{without}"
            )
        )
        parts += [_rows("tenant", whole.tenants), _rows("keys", whole.families)]
    return Group(*parts)


def _lines(found: Pressure) -> list[RenderableType]:
    now = found.points[-1]
    high, low = found.marks
    minutes = (now.at - found.points[0].at) / 60
    limit = f"{now.used / now.limit:.0%} of {_size(now.limit)}" if now.limit else "no maxmemory"
    if now.fullest:
        limit += f", the fullest node {now.fullest:.0%}"
    lines: list[RenderableType] = [
        Text(f"{_drawn(found)}  the last {minutes:.0f} min, █ is 100 %") if now.limit else Text(""),
        Text(f"used         {_size(now.used)}, {limit}; evicted from {high:.0%} down to {low:.0%}"),
        Text(f"changes by   {_size(now.slope)}/s{_until(now, high)}"),
        Text(f"the server   evicts {now.evicting:,.1f} and expires {now.expiring:,.1f} keys/s"),
        Text(
            f"holds        {counted(now.keys, 'key')}; {_size(now.rss)} of the machine, {now.fragmentation:.2f} times "
            f"what it uses; {_size(now.clients)} for clients"
        ),
    ]
    if now.pressed:
        lines.append(Text("under pressure: warm plans wait for the low mark", style="yellow"))
    if now.full:
        lines.append(Text(f"full: {', '.join(map(printable, now.full))} store nothing more", style="red"))
    if now.missing:
        lines.append(
            Text(f"no answer from {', '.join(now.missing)}: what is there is not counted", style="red")
        )
    if (age := found.now - now.at) > 60:
        lines.append(Text(f"nobody has looked for {age:.0f} s: is beat running?", style="red"))
    return lines


def _drawn(found: Pressure) -> str:
    """The highest share of each of so many equal spans of time."""
    first, last = found.points[0].at, found.points[-1].at
    spans: dict[int, float] = {}
    for point in found.points:
        span = int((point.at - first) / (last - first) * (COLUMNS - 1)) if last > first else 0
        spans[span] = max(spans.get(span, 0.0), point.share)
    drawn, share = "", 0.0
    for span in range(max(spans) + 1):
        share = spans.get(span, share)
        drawn += _BARS[min(len(_BARS) - 1, int(share * len(_BARS)))]
    return drawn


def _until(now: Point, high: float) -> str:
    seconds, full = now.full_in(high), now.full_in()
    if seconds is None or full is None:
        return ""
    return (
        f"; at the high mark in {_time(seconds)}, full in {_time(full)}"
        if seconds
        else f"; full in {_time(full)}"
    )


def _rows(what: str, rows: Sequence[Row]) -> RenderableType:
    view = Table(
        what, "share", "", "bytes", "entries", "hits", "misses", "load, ms", box=None, pad_edge=False
    )
    for column in view.columns[1:]:
        column.justify = "right"
    for row in rows[:_MOST_ROWS]:
        name = printable(row.name) if row.name else "(shared)"
        view.add_row(
            Text(name if what == "tenant" else f"{name}:*"),
            f"{row.share:.1%}",
            f"± {row.error:.1%}",
            _size(row.bytes),
            f"{row.entries:,}",
            f"{row.hits:,}",
            f"{row.misses:,}",
            f"{row.load_us / 1000:,.1f}",
        )
    return view


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if abs(size) < 1024:
            return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
