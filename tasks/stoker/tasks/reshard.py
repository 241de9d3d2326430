"""Changing where keys live: the task. What that is, is `stoker.cache.reshard`'s business.

What was hot is remembered before, and warmed again afterwards as after any cold start.
"""

import logging
from collections.abc import Generator
from typing import Any

from stoker.cache import Cache, CacheError, ReshardReport, Step
from stoker.cache.reshard import Change
from stoker.tasks import hot_keys, hot_replay, names, runtime, send
from stoker.tasks.app import app
from stoker.tasks.coordinator import SteppedTask
from stoker.tasks.errors import NotSent, StateUnavailable
from stoker.tasks.job import Claim

log = logging.getLogger(__name__)


@app.task(name=names.RESHARD, bind=True, shared=False, base=SteppedTask)
def reshard(self: SteppedTask, /, **message: Any) -> dict[str, Any]:
    """Give the namespace another number of shards, pin tenants, or let them go. See `names.Reshard`.

    Safe to run twice. Lost in the middle of the change, it is completed by whatever process needs the map next.
    """
    return self.run_job(message, _steps, lambda _report: None)


def _steps(
    cache: Cache, arguments: names.Reshard, claim: Claim, batch: int
) -> Generator[Step[ReshardReport], None, None]:
    if claim.cursor is None:
        _remember_what_is_hot()
    change = Change(arguments.num_shards, arguments.pin, tuple(arguments.unpin), arguments.function)
    for step in cache.reshard_steps(change, batch=batch, cursor=claim.cursor):
        if step.last:
            _see_to_the_rest()
        yield step


def _see_to_the_rest() -> None:
    """Sweep what was stored before, and replay what was hot. The change itself has been made."""
    try:
        send.sweep()
        if hot_replay.is_due():
            send.warm_plan(hot_replay.REPLAY)
    except NotSent as error:
        log.warning("sharded anew, but what is to follow was not sent, beat will sweep: %s", error)


def _remember_what_is_hot() -> None:
    try:
        hot_keys.learn(runtime.current(), snapshot=True)
    except (CacheError, StateUnavailable) as error:
        log.warning(
            "what is hot now is not known, an earlier snapshot will be replayed if there is one: %s", error
        )
