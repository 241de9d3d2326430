"""A plan of which slots of a cluster should move, as tables with bars, or as JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from stoker.cache import RebalancePlan
from stoker.worker.terminal import counted

MOST_MOVES = 50
_BAR = 30


def table(plan: RebalancePlan, hot_keys: Sequence[str] = ()) -> RenderableType:
    """The moves, and what each node has before and after.

    Args:
        hot_keys: Keys of the shards that are too hot, hottest first.
    """
    parts: list[RenderableType] = [_shares(plan), Text()]
    if plan.moves:
        parts += [_moves(plan), Text(_summary(plan))]
    else:
        parts.append(
            Text(f"nothing to move: every node is as close to its share of {plan.by} as slots allow")
        )
    for hot in plan.hot:
        names = ", ".join(f"shard {number}" for number in hot.shards)
        told = (
            f"{names} alone is {hot.share:.0%} of all {plan.by}, more than a node's share of {hot.target:.0%}: to move "
            "it does not help. Its keys can be spread over more shards; one that is hot by itself: see  stoker top"
        )
        parts.append(Text(told, style="yellow"))
    if plan.hot and hot_keys:
        parts.append(Text(f"its hottest keys: {', '.join(hot_keys)}", style="yellow"))
    return Group(*parts)


def _shares(plan: RebalancePlan) -> Table:
    view = Table("node", f"{plan.by} before", "", "after", "", "share", box=None, pad_edge=False)
    most = max((max(one.before, one.after, one.target) for one in plan.nodes), default=1.0) or 1.0
    for one in plan.nodes:
        view.add_row(
            one.node,
            f"{one.before:.1%}",
            ProgressBar(total=most, completed=one.before, width=_BAR),
            f"{one.after:.1%}",
            ProgressBar(total=most, completed=one.after, width=_BAR),
            f"{one.target:.1%}",
        )
    return view


def _moves(plan: RebalancePlan) -> Table:
    view = Table("slot", "shards", "from", "to", "keys", "bytes", box=None, pad_edge=False)
    for move in plan.moves[:MOST_MOVES]:
        view.add_row(
            str(move.slot),
            ", ".join(map(str, move.shards)),
            move.source,
            move.target,
            f"{move.keys:,}",
            decimal(move.bytes),
        )
    if len(plan.moves) > MOST_MOVES:
        view.add_row(f"and {len(plan.moves) - MOST_MOVES} more", "", "", "", "", "")
    return view


def _summary(plan: RebalancePlan) -> str:
    slots, keys = counted(len(plan.moves), "slot"), counted(plan.keys, "key")
    return f"{slots}, {keys}, about {decimal(plan.bytes)}, in about {plan.seconds:,.0f} s"


def as_json(plan: RebalancePlan, hot_keys: Sequence[str] = ()) -> dict[str, Any]:
    """The same for programs; shares are 0 to 1."""
    return {**asdict(plan), "keys": plan.keys, "bytes": plan.bytes, "hot_keys": list(hot_keys)}
