"""Warming: the task. How keys are loaded and filled is `stoker.cache.warm`'s business."""

from collections.abc import Iterator
from typing import Any

from stoker.cache import Cache, Step
from stoker.tasks import names
from stoker.tasks.app import app
from stoker.tasks.coordinator import SteppedTask


@app.task(name=names.WARM, bind=True, shared=False, base=SteppedTask)
def warm(self: SteppedTask, /, **message: Any) -> dict[str, Any]:
    """Load keys by their registered loaders and fill them. See `names.Warm` for the arguments.

    Safe to run twice: a key is loaded again at worst. If it is lost, the keys are loaded when they are read.
    """
    return self.run_job(message, _steps, _why_failed)


def _steps(
    cache: Cache, arguments: names.Warm, cursor: dict[str, Any] | None, batch: int
) -> Iterator[Step[Any]]:
    return cache.warm_steps(arguments.keys, arguments.tenant_id, batch=batch, cursor=cursor)


def _why_failed(report: dict[str, Any]) -> str | None:
    """A job that made nothing readable has failed; single keys that failed are in the report."""
    if report["written"] or report["fresh"] or report["busy"]:
        return None
    first = f"; {report['errors'][0][0]}: {report['errors'][0][1]}" if report["errors"] else ""
    return f"no key was written ({report['failed']} failed, {report['missing']} missing){first}"
