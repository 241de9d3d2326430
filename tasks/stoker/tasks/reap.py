"""Orphaned jobs, and rules for events: the task of beat that sends again what nobody runs any more."""

import logging
from typing import Any

from stoker.tasks import names, runtime, send
from stoker.tasks.app import app
from stoker.tasks.base import JobTask
from stoker.tasks.react import ask

log = logging.getLogger(__name__)


@app.task(name=names.REAP, bind=True, shared=False, base=JobTask)
def reap(self: JobTask, /, **message: Any) -> dict[str, Any]:
    """Send each unfinished job again that gave no sign of life for the life of its lock; likewise rules for events.

    Safe to run twice and safe to lose. A job that is merely waiting in a long queue gets a second message, which
    does nothing when it is met; so each next look at the same job waits twice as long.
    """
    self.accept(message)
    sent = 0
    for job_id, kind in runtime.current().jobs.orphans():
        if names.is_kind(kind):
            send.again(job_id, kind)
            sent += 1
        else:
            log.error(
                "job %s is of kind %s, unknown to this version: it is not run", job_id, names.shown(kind)
            )
    for event, rule in runtime.current().events.overdue():
        ask(event, rule or None)
        sent += 1
    return {"sent": sent}
