"""Hot keys: the task of beat that learns which they are. What that means is `hot_keys`' business."""

from typing import Any

from stoker.tasks import hot_keys, names, runtime
from stoker.tasks.app import app
from stoker.tasks.base import JobTask


@app.task(name=names.HOT, bind=True, shared=False, base=JobTask)
def hot(self: JobTask, /, **message: Any) -> dict[str, Any]:
    """Collect which keys were read, and take a snapshot of the hottest if one is due.

    Safe to run twice at once, each then collects a part; safe to lose, with what it had collected.
    """
    self.accept(message)
    return hot_keys.learn(runtime.current())
