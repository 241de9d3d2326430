"""Warming: the task that helps. A coordinator has asked for it; it warms what that deals, until nothing is left.

It has no job of its own: what it does counts for the coordinator's, and what it had not finished when it was killed is
done by the others.
"""

import time
from contextlib import closing
from typing import Any, cast

from stoker.cache import Step
from stoker.tasks import names, pressure, runtime
from stoker.tasks.app import app
from stoker.tasks.base import JobTask
from stoker.tasks.coordinator import ANNOUNCE_EVERY, HAND_OVER_AT
from stoker.tasks.errors import JobLost
from stoker.tasks.pace import Pace
from stoker.tasks.runtime import Runtime


@app.task(name=names.WARM_BATCH, bind=True, shared=False, base=JobTask)
def warm_batch(self: JobTask, /, **message: Any) -> dict[str, Any]:
    """Help with a warm. Safe to run twice, safe to lose, and soon over if there is nothing to help with."""
    _, arguments = self.accept(message)
    job_id = cast("names.WarmBatch", arguments).job
    try:
        helped = _help(self, runtime.current(), job_id)
    except JobLost:
        helped = False
    return {"job": job_id, "helped": helped}


def _help(task: JobTask, here: Runtime, job_id: str) -> bool:
    """Warm what the job deals, as long as it runs. Tells whether there was anything."""
    settings = here.settings.job
    began = announced = time.monotonic()
    pace = Pace(0, began)
    step: Step[Any] | None = None
    of_plan = (here.jobs.arguments(job_id) or {}).get("plan") is not None
    gate = pressure.Gate(here)
    if of_plan and gate.is_shut():
        return False
    with (
        here.work(job_id) as work,
        closing(  # first, while what its lanes have taken is still kept
            here.cache.help_warm_steps(work, lanes=settings.lanes, budget=here.budget, limits=work.limits())
        ) as steps,
    ):
        for step in steps:
            now = time.monotonic()
            if step.last or (status := here.jobs.status(job_id)) is None or status.final:
                break
            if now - began > HAND_OVER_AT * settings.soft_time_limit or (of_plan and gate.is_shut()):
                break  # whoever coordinates next asks for helpers anew
            pace.add(step, now)
            if now - announced >= ANNOUNCE_EVERY:
                announced = now
                task.announce("task-STARTED", result=f"helps {job_id}: {pace.text(step)}")
    return step is not None
