"""Sweeping: the task. What is deleted, and when bans are retired, is `stoker.cache.sweep`'s business."""

from collections.abc import Generator
from typing import Any

from stoker.cache import Cache, Step
from stoker.tasks import names
from stoker.tasks.app import app
from stoker.tasks.coordinator import SteppedTask
from stoker.tasks.job import Claim


@app.task(name=names.SWEEP, bind=True, shared=False, base=SteppedTask)
def sweep(self: SteppedTask, /, **message: Any) -> dict[str, Any]:
    """Delete what is banned, then retire the bans. See `names.Sweep` for the arguments.

    Safe to run twice and safe to lose: readers do not serve what is banned, and beat asks for the next sweep.
    """
    return self.run_job(message, _steps, _why_failed)


def _steps(
    cache: Cache, _arguments: names.Sweep, claim: Claim, batch: int
) -> Generator[Step[Any], None, None]:
    return cache.sweep_steps(batch=batch, cursor=claim.cursor)


def _why_failed(report: dict[str, Any]) -> str | None:
    if report["complete"]:
        return None
    return f"the cache server changed {report['restarts']} times during the sweep; the next one begins anew"
