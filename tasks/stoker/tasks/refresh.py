"""Refreshing one value: the task. A reader was served the old one and asks for it; see `stoker.cache`'s `Hooks`.

No job is kept of it: there can be thousands a second, and what is lost is asked for again by the next reader.
"""

from typing import Any, cast

from stoker.tasks import names, runtime
from stoker.tasks.app import app
from stoker.tasks.base import JobTask


@app.task(name=names.REFRESH, bind=True, shared=False, base=JobTask)
def refresh(self: JobTask, /, **message: Any) -> None:
    """Load a key's value anew by its registered loader. See `names.Refresh` for the arguments.

    Safe to run twice: it loads once more at worst. Where the loader fails the old value stays.
    """
    arguments = cast("names.Refresh", names.check(self.name, message))
    runtime.current().cache.refresh(arguments.key, arguments.tenant_id)
