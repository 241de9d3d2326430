"""`stoker rebalance`: what an operator does about nodes of a cluster that do not have their shares."""

import json
from itertools import islice
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.text import Text

from stoker.cache import RebalancePlan
from stoker.tasks import runtime, send
from stoker.worker import rebalance_view, top_view

MOST_HOT = 5
_LOOKED_AT = 200


def rebalance(
    plan: Annotated[bool, typer.Option("--plan", help="Only show what would move.")] = False,
    by: Annotated[
        Literal["keys", "bytes", "load"] | None,
        typer.Option(help="What counts: keys, bytes or load; STOKER_REBALANCE__BY if left out."),
    ] = None,
    weight: Annotated[
        list[str] | None,
        typer.Option(metavar="NODE=NUMBER", help="A node's share, in proportion to others; 1 if left out."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show which slots of the cluster would move for each node to have its share; then have a worker move them."""
    here = runtime.current()
    weights = _weights(weight or [])
    wanted = by or here.settings.rebalance.by
    found = here.cache.plan_rebalance(by=wanted, weights=weights)
    hot = _hot_keys(here, found)
    job = None if plan or not found.moves else send.rebalance(by=wanted, weights=weights)
    if as_json:
        typer.echo(
            json.dumps({**rebalance_view.as_json(found, hot), "job": job.id if job else None}, indent=2)
        )
        return
    Console().print(rebalance_view.table(found, hot))
    if job is not None:
        Console().print(Text(f"job {job.id} moves them: see  stoker jobs {job.id}"))


def _weights(given: list[str]) -> dict[str, float]:
    weights: dict[str, float] = {}
    for one in given:
        node, _, number = one.rpartition("=")
        try:
            weights[node] = float(number)
        except ValueError:
            raise typer.BadParameter(f"--weight {one}: write NODE=NUMBER, such as 10.0.0.7:7000=2") from None
    return weights


def _hot_keys(here: runtime.Runtime, plan: RebalancePlan) -> list[str]:
    """The hottest keys that are known of the shards that are too hot; none where no reads were learned of."""
    shards = {number for hot in plan.hot for number in hot.shards}
    if not shards:
        return []
    known = top_view.look(here, _LOOKED_AT, None).keys
    its = (one.key for one in known if here.cache.explain(one.key, one.tenant_id)["shard"] in shards)
    return list(islice(its, MOST_HOT))
