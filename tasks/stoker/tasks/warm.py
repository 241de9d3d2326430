"""Warming: the task. How keys are loaded and filled is `stoker.cache.warm`'s business."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from stoker.cache import Cache, Step
from stoker.tasks import names, plans, runtime
from stoker.tasks.app import app
from stoker.tasks.coordinator import SteppedTask


@app.task(name=names.WARM, bind=True, shared=False, base=SteppedTask)
def warm(self: SteppedTask, /, **message: Any) -> dict[str, Any]:
    """Load keys, or those of a plan, by their registered loaders and fill them. See `names.Warm` for the arguments.

    Safe to run twice: a key is loaded again at worst. If it is lost, the keys are loaded when they are read.
    """
    return self.run_job(message, _steps, _why_failed)


def _steps(
    cache: Cache, arguments: names.Warm, cursor: dict[str, Any] | None, batch: int
) -> Iterator[Step[Any]]:
    if arguments.plan is not None:
        return _plan_steps(cache, arguments.plan, cursor, batch)
    budget = runtime.current().budget
    return cache.warm_steps(
        arguments.keys or [], arguments.tenant_id, batch=batch, cursor=cursor, budget=budget
    )


def _plan_steps(cache: Cache, name: str, cursor: dict[str, Any] | None, batch: int) -> Iterator[Step[Any]]:
    """The plan's keys; from the beginning if it was changed since the cursor was written."""
    here = runtime.current()
    plan = plans.keys_of(name, here.plans.seed(plans.known(here.settings)).plans)
    if cursor is not None and cursor.get("plan") != plan.version:
        cursor = None
    for step in cache.warm_steps(plan.keys, batch=batch, cursor=cursor, budget=here.budget):
        total = max(plan.expected, step.done) if step.total is None and plan.expected else step.total
        yield replace(step, total=total, cursor={**step.cursor, "plan": plan.version})


def _why_failed(report: dict[str, Any]) -> str | None:
    """A job that made nothing readable has failed; single keys that failed are in the report."""
    if report["stopped"]:
        return f"stopped before its last key: {report['stopped']}{_first_error(report)}"
    if report["written"] or report["fresh"] or report["busy"]:
        return None
    if not report["asked"]:
        return "there was no key to warm"
    return (
        f"no key was written ({report['failed']} failed, {report['missing']} missing){_first_error(report)}"
    )


def _first_error(report: dict[str, Any]) -> str:
    return f"; {report['errors'][0][0]}: {report['errors'][0][1]}" if report["errors"] else ""
