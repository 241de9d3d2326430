"""Memory pressure: the task. What goes first is `stoker.cache.evict`'s business."""

from collections.abc import Generator
from typing import Any

from stoker.cache import Cache, Step
from stoker.tasks import names
from stoker.tasks.app import app
from stoker.tasks.coordinator import SteppedTask
from stoker.tasks.job import Claim


@app.task(name=names.EVICT, bind=True, shared=False, base=SteppedTask)
def evict(self: SteppedTask, /, **message: Any) -> dict[str, Any]:
    """Bring memory down to the low watermark, or to `target_bytes`. See `names.Evict` for the arguments.

    Safe to run twice and safe to lose: the next tick of beat measures again.
    """
    return self.run_job(message, _steps, lambda _report: None)


def _steps(
    cache: Cache, arguments: names.Evict, claim: Claim, batch: int
) -> Generator[Step[Any], None, None]:
    return cache.evict_steps(target_bytes=arguments.target_bytes, batch=batch, cursor=claim.cursor)
