"""`stoker top`: the keys that are read most, with what is stored under them now, as a table or as JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from stoker.cache import CacheUnavailable
from stoker.cache.tenancy import tenant_field
from stoker.tasks import hot_keys
from stoker.tasks.hot_store import HotKey
from stoker.tasks.runtime import Runtime
from stoker.worker.terminal import printable

UNKNOWN = "unknown"
_STYLES = {"live": "green", "absent": "yellow", "banned": "yellow"}


@dataclass(frozen=True, slots=True)
class Top:
    """The hottest keys.

    Attributes:
        keys: Hottest first; `share` is that of all reads that are shown here, of one tenant or of all.
        states: Of their entries, as `Cache.explain` says them, or `unknown`.
        rate: Reads a second of all keys together, also of those that are not known singly.
        problem: Why states are not known; empty if they are.
    """

    keys: Sequence[HotKey]
    states: Sequence[str]
    rate: float
    problem: str


def look(here: Runtime, n: int, tenant_id: str | None) -> Top:
    """The `n` hottest keys of a tenant, or of all; None: of all.

    Raises:
        InvalidName: There can be no such tenant.
        StateUnavailable: The state server does not answer.
    """
    tenant_field(tenant_id)
    watched = here.hot.tenants()
    if tenant_id is not None:
        watched = {tenant: one for tenant, one in watched.items() if tenant == tenant_id}
    found = hot_keys.known(here, watched)[:n]
    states, problem = _states(here, found)
    return Top(found, states, sum(one.rate for one in watched.values()), problem)


def table(top: Top) -> RenderableType:
    """One row a key."""
    if not top.keys:
        return Text(
            "no hot keys are known yet: they are learned from reads through Redis, by a worker that serves the queue "
            "maintenance, with `stoker beat` running"
        )
    view = Table("key", "tenant", "share", "reads/s", "now", box=None, pad_edge=False)
    for column in view.columns[2:4]:
        column.justify = "right"
    for hot, state in zip(top.keys, top.states, strict=True):
        view.add_row(
            Text(printable(hot.key)),
            Text(printable(hot.tenant_id) if hot.tenant_id is not None else "(shared)"),
            f"{_share(hot, top):.1%}",
            f"{hot.rate:,.1f}",
            Text(state, style=_STYLES.get(state, "")),
        )
    shown = sum(hot.rate for hot in top.keys)
    notes = [Text(f"{shown:,.0f} of {top.rate:,.0f} reads/s")]
    if top.problem:
        notes.append(Text(top.problem, style="red"))
    return Group(view, *notes)


def as_json(top: Top) -> dict[str, Any]:
    """The same for programs."""
    rows = [
        {**asdict(hot), "share": _share(hot, top), "state": state}
        for hot, state in zip(top.keys, top.states, strict=True)
    ]
    return {"keys": rows, "reads_per_second": top.rate, "problem": top.problem}


def _states(here: Runtime, found: Sequence[HotKey]) -> tuple[list[str], str]:
    try:
        return [here.cache.explain(hot.key, hot.tenant_id)["state"] for hot in found], ""
    except CacheUnavailable as error:
        return [UNKNOWN] * len(found), f"what is stored is not known: {error}"


def _share(hot: HotKey, top: Top) -> float:
    return min(hot.rate / top.rate, 1.0) if top.rate else 0.0
