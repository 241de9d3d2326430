"""Takes a last snapshot of the hot keys when a worker ends, with what was learned since the last regular one.

It is a step of the worker and not a signal handler, because Celery sends `worker_shutdown` only if the worker may end
its tasks.
"""

import logging
import threading
from typing import Any

from celery import bootsteps

from stoker.cache import CacheUnavailable
from stoker.config import Settings
from stoker.tasks import hot_keys, runtime
from stoker.tasks.errors import StateUnavailable

log = logging.getLogger(__name__)

LONGEST = 3.0
"""Seconds that the worker's end waits for it."""


class LastSnapshot(bootsteps.StartStopStep):
    """Takes it, however the worker is told to end, unless it is killed."""

    def stop(self, parent: Any) -> None:  # noqa: ARG002 - Celery passes it
        take(runtime.current().settings)

    terminate = stop


def take(settings: Settings) -> None:
    """Take a snapshot within `LONGEST`, or leave it."""
    if settings.beat.hot_every is not None:
        thread = threading.Thread(target=_take, args=(settings,), name="last snapshot", daemon=True)
        thread.start()
        thread.join(LONGEST)


def _take(settings: Settings) -> None:
    here = runtime.Runtime(settings)  # connections of its own: it may be left behind
    try:
        hot_keys.learn(here, snapshot=True)
    except (CacheUnavailable, StateUnavailable) as error:
        log.warning("no snapshot of the hot keys was taken at the end: %s", error)
    finally:
        here.close()
