"""Warm plans by the clock: the task of beat that starts those that are due, and the start-up of workers.

A run is a job of `stoker.warm` about its plan, so a run that is still going is joined, never doubled. What a plan's
keys are is `plans`' business.
"""

import logging
from typing import Any

from stoker.tasks import names, plans, pressure, runtime, send
from stoker.tasks.app import app
from stoker.tasks.base import JobTask
from stoker.tasks.errors import NotSent
from stoker.tasks.plan_record import PlanRecord
from stoker.tasks.plan_store import PlanStore, Snapshot
from stoker.tasks.runtime import Runtime

log = logging.getLogger(__name__)

TAKEN_MS = 30_000
"""After so long without a job, whoever took it upon himself to start a run has died, or could not send it."""
STARTUP_GUARD_MS = 60_000
"""Workers that start within so long of each other are one fleet that starts."""


@app.task(name=names.TICK, bind=True, shared=False, base=JobTask)
def tick(self: JobTask, /, **message: Any) -> dict[str, Any]:
    """Start the warm plans that are due, highest priority first, and write down how earlier runs ended.

    Safe to run twice and safe to lose: one of several takes each run, and what is due stays so until the next tick.
    """
    self.accept(message)
    return {"started": start_due(runtime.current())}


def start_due(here: Runtime) -> list[str]:
    """Start what is due; returns the names."""
    snapshot = here.plans.seed(plans.known(here.settings))
    here.plans.remember(snapshot)
    _note_ends(here, snapshot)
    if not here.settings.job.warm_under_pressure and pressure.pressed(here):
        return []  # what is due stays so
    due = [plan for plan in here.plans.read().plans.values() if _is_due(plan, snapshot.now_ms)]
    taken = [plan for plan in _in_order(due) if here.plans.take(plan, _taken(plan, snapshot.now_ms))]
    return [plan.name for plan in taken if _start(here.plans, plan.name)]


def start_up(here: Runtime) -> list[str]:
    """Start the plans that run when workers start, once for those that start together; returns their names."""
    snapshot = here.plans.seed(plans.known(here.settings))
    now_ms = snapshot.now_ms
    wanted = [plan for plan in snapshot.plans.values() if _starts_up(plan, now_ms)]
    taken = [
        plan
        for plan in _in_order(wanted)
        if here.plans.take(plan, plan.with_(startup_ms=now_ms, taken_ms=now_ms))
    ]
    return [plan.name for plan in taken if _start(here.plans, plan.name)]


def run_now(here: Runtime, name: str) -> str:
    """Run a plan because an operator says so; returns its job's id. Raises as `send.warm_plan`."""
    job_id = send.warm_plan(name).id
    here.plans.update(
        name, lambda record, now_ms: record and _with_job(record, job_id, now_ms, by_clock=False)
    )
    return job_id


def _is_due(plan: PlanRecord, now_ms: int) -> bool:
    if plan.taken_ms is not None:
        return now_ms - plan.taken_ms >= TAKEN_MS
    return not plan.paused and plan.next_ms is not None and plan.next_ms <= now_ms


def _starts_up(plan: PlanRecord, now_ms: int) -> bool:
    lately = plan.startup_ms is not None and now_ms - plan.startup_ms < STARTUP_GUARD_MS
    return plan.timing.on_startup and not plan.paused and not lately


def _taken(plan: PlanRecord, now_ms: int) -> PlanRecord:
    """The plan with its due times up to now used up: one for the run that begins, the others are missed."""
    missed = 0
    if not plan.paused and plan.next_ms is not None and plan.next_ms <= now_ms:
        following, missed = plan.timing.after(plan.next_ms, now_ms)
        missed += plan.taken_ms is not None  # the run that begins is one that was due before
        plan = plan.with_(next_ms=following)
    return plan.with_(taken_ms=now_ms).missing(missed, now_ms)


def _start(store: PlanStore, name: str) -> bool:
    """Send the run, and write its job down. What cannot be sent stays taken, and is tried again later."""
    try:
        job_id = send.warm_plan(name).id
    except NotSent as error:
        reason = str(error)
        log.error("plan %r could not be started: %s", name, reason)
        store.update(name, lambda record, _now_ms: record and record.with_(error=reason))
        return False
    store.update(name, lambda record, now_ms: record and _with_job(record, job_id, now_ms, by_clock=True))
    return True


def _with_job(record: PlanRecord, job_id: str, now_ms: int, *, by_clock: bool) -> PlanRecord:
    record = record.with_(taken_ms=None)
    if record.job == job_id:  # its run from before is not over
        return record.missing(int(by_clock), now_ms)
    return record.with_(job=job_id, outcome="", error="", ended_ms=None)


def _note_ends(here: Runtime, snapshot: Snapshot) -> None:
    """Write down how runs ended, for their jobs' records are not kept for long."""
    for plan in snapshot.plans.values():
        if not plan.job or plan.outcome:
            continue
        status = here.jobs.status(plan.job)
        if status is not None and not status.final:
            continue
        outcome, error = (status.state, status.error) if status else ("lost", "its job is not known any more")
        ended = plan.with_(outcome=outcome, error=error, ended_ms=snapshot.now_ms)
        here.plans.take(plan, ended.with_(keys=status.done) if status and outcome == "succeeded" else ended)


def _in_order(due: list[PlanRecord]) -> list[PlanRecord]:
    return sorted(due, key=lambda plan: (-plan.timing.priority, plan.next_ms or 0, plan.name))
