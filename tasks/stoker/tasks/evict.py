"""Memory pressure: the task. What goes first is `stoker.cache.evict`'s business."""

from collections.abc import Generator
from typing import Any

from stoker.cache import Cache, Step
from stoker.tasks import names, runtime
from stoker.tasks.app import app
from stoker.tasks.coordinator import SteppedTask
from stoker.tasks.job import Claim


@app.task(name=names.EVICT, bind=True, shared=False, base=SteppedTask)
def evict(self: SteppedTask, /, **message: Any) -> dict[str, Any]:
    """Bring memory down to the low watermark, or to `target_bytes`, and tenants to their quotas. See `names.Evict`.

    Then it looks on while memory rises so fast that beat's next look may come too late.

    Safe to run twice and safe to lose: the next tick of beat measures again.
    """
    return self.run_job(message, _steps, lambda _report: None)


def _steps(
    cache: Cache, arguments: names.Evict, claim: Claim, batch: int
) -> Generator[Step[Any], None, None]:
    stay = runtime.current().settings.beat.evict_every or 0.0
    return cache.evict_steps(target_bytes=arguments.target_bytes, batch=batch, cursor=claim.cursor, stay=stay)
