"""Rebalancing a cluster: the task, and the rule that asks for it. Which slots move, and how, is in `stoker.cache`."""

from collections.abc import Generator
from typing import Any

from stoker.cache import Cache, Step
from stoker.tasks import names, runtime
from stoker.tasks.actions import Rebalance
from stoker.tasks.app import app
from stoker.tasks.coordinator import SteppedTask
from stoker.tasks.events import NODES, Event
from stoker.tasks.job import Claim
from stoker.tasks.rules import on_event


@app.task(name=names.REBALANCE, bind=True, shared=False, base=SteppedTask)
def rebalance(self: SteppedTask, /, **message: Any) -> dict[str, Any]:
    """Move slots so that each node has its share, or say which would move. See `names.Rebalance` for the arguments.

    Safe to run twice and safe to lose: its plan and how far it is are in the job, and each move first looks at who has
    the slot now. Told to stop, failed or given up, it cancels the move that is under way.
    """
    return self.run_job(message, _steps, _why_failed, _stop)


@on_event(NODES)
def rebalance_when_nodes_changed(event: Event) -> Rebalance | None:  # noqa: ARG001 - which ones does not matter
    """Plan; and move too, where that is allowed."""
    settings = runtime.current().settings
    return Rebalance(settings.rebalance.by, settings.rebalance.act) if settings.cache_cluster else None


def _steps(
    cache: Cache, arguments: names.Rebalance, claim: Claim, _batch: int
) -> Generator[Step[Any], None, None]:
    if not arguments.act:
        plan = cache.plan_rebalance(by=arguments.by, weights=arguments.weights)
        yield Step(len(plan.moves), len(plan.moves), 0, {}, plan, last=True)
        return
    yield from cache.rebalance_steps(by=arguments.by, weights=arguments.weights, cursor=claim.cursor or None)


def _stop(cache: Cache, cursor: dict[str, Any]) -> None:
    cache.stop_rebalance(cursor)  # if it fails the slot stays or moves; whoever meets its shards sees to them


def _why_failed(report: dict[str, Any]) -> str | None:
    if not report.get("failed"):
        return None
    return f"{report['failed']} of {report['planned']} slots stayed where they were; {report['reason']}"
