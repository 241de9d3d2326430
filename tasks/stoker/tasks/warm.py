"""Warming: the task that coordinates. It deals the keys in batches, which `warm_batch` helps to warm in other workers.

How a batch is loaded and filled is `stoker.cache.warm`'s business; what is shared is in `work`.
"""

from collections.abc import Callable, Generator
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from typing import Any

from stoker.cache import Cache, Step
from stoker.cache.budget import Limit
from stoker.tasks import names, plans, pressure, runtime, send
from stoker.tasks.app import app
from stoker.tasks.coordinator import HandOver, SteppedTask
from stoker.tasks.errors import NotSent
from stoker.tasks.job import Claim
from stoker.tasks.plan_tenants import tenants_of_run
from stoker.tasks.runtime import Runtime
from stoker.tasks.work import SharedWork

Steps = Generator[Step[Any], None, None]


@app.task(name=names.WARM, bind=True, shared=False, base=SteppedTask)
def warm(self: SteppedTask, /, **message: Any) -> dict[str, Any]:
    """Load keys, or those of a plan, by their registered loaders and fill them. See `names.Warm` for the arguments.

    Safe to run twice: batches that are done are not done again. If it is lost, the keys are loaded when they are read.
    """
    return self.run_job(message, _steps, _why_failed)


def _steps(cache: Cache, arguments: names.Warm, claim: Claim, batch: int) -> Steps:
    here = runtime.current()
    with here.work(claim.job_id) as work:
        if arguments.plan is None:
            work.begin("", (), claim.token)
            warming = partial(cache.warm_steps, arguments.keys or [], arguments.tenant_id)
            yield from _with_help(here, claim, work, partial(warming, batch=batch))
            return
        tenants = partial(tenants_of_run, here, arguments.plan, begins=not work.has_begun())
        plan = plans.keys_of(arguments.plan, here.plans.seed(plans.known(here.settings)).plans, tenants)
        limits = _limits(arguments.plan, plan)
        work.begin(plan.version, limits, claim.token)
        warming = partial(cache.warm_steps, plan.keys, batch=batch, limits=limits)
        for step in _while_there_is_memory(here, _with_help(here, claim, work, warming)):
            guess = step.total is None and plan.expected
            yield replace(step, total=max(plan.expected or 0, step.done)) if guess else step


def _while_there_is_memory(here: Runtime, steps: Steps) -> Steps:
    gate = pressure.Gate(here)
    with closing(steps):
        while not gate.is_shut():
            step = next(steps, None)
            if step is None:
                return
            yield step
    raise HandOver("it waits until memory is below the low mark", pressure.PAUSE_S)


def _limits(name: str, plan: plans.PlanKeys) -> list[Limit]:
    if plan.rate is None and plan.concurrency is None:
        return []
    return [Limit(f"plan:{name}", plan.rate, plan.concurrency)]


def _with_help(here: Runtime, claim: Claim, work: SharedWork, warming: Callable[..., Steps]) -> Steps:
    """Warm, and call helpers once there is enough for them to do."""
    job = here.settings.job
    helpers = job.helpers
    for step in warming(lanes=job.lanes, work=work, budget=here.budget):
        yield step
        if helpers and not step.last and work.tally().left > job.lanes * job.batch:
            with suppress(NotSent):  # then it takes longer
                send.helpers(claim.job_id, helpers)
            helpers = 0


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
