"""The cache's own events, published for rules: what the hook `on_event` of `open_cache` calls.

The engine tells of them in the middle of a read. So publishing is left to a thread, which tries for half a minute: the
broker may be away for the same reason as what there is to tell. `watch` notices later what is lost here.
"""

import atexit
import logging
import os
import queue
import threading
import time
from collections.abc import Mapping
from typing import Any

from stoker.cache import CacheError
from stoker.config import InvalidSettings
from stoker.tasks import runtime
from stoker.tasks.errors import NotSent, TaskError
from stoker.tasks.events import COLD
from stoker.tasks.publish import publish

log = logging.getLogger(__name__)

MOST_WAITING = 100
AT_EXIT = 1.0
"""Seconds that a process which ends gives the thread."""
WAITS = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)

Told = tuple[str, Mapping[str, Any]]


def cold_id(shard: int, incarnation: str) -> str:
    """The id of the event that a shard's new life is, whoever tells of it."""
    return f"cold.{incarnation}.{shard}"


def tell(name: str, facts: Mapping[str, Any]) -> None:
    """Have an event of the engine published, if rules may be about it. Never blocks, and never raises for a server."""
    if name != COLD:
        return
    try:
        _post.waiting.put_nowait((name, facts))
    except queue.Full:
        log.warning("%s is not published: %d others wait already", name, MOST_WAITING)
        return
    _post.start()


class _Post:
    """The thread that publishes, and what waits for it."""

    def __init__(self) -> None:
        self.waiting: queue.Queue[Told] = queue.Queue(MOST_WAITING)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread, unless it runs."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="engine events", daemon=True)
                self._thread.start()

    def wait(self, seconds: float) -> None:
        """Return when nothing waits any more, or after so long."""
        with self.waiting.all_tasks_done:
            self.waiting.all_tasks_done.wait_for(lambda: not self.waiting.unfinished_tasks, seconds)

    def _run(self) -> None:
        while True:
            name, facts = self.waiting.get()
            try:
                _publish(name, facts)
            except (TaskError, CacheError, InvalidSettings) as error:
                log.warning("%s is not published: %s", name, error)
            except Exception:
                log.exception("%s is not published", name)  # the thread must go on
            finally:
                self.waiting.task_done()


def _publish(name: str, facts: Mapping[str, Any]) -> None:
    for wait in (*WAITS, None):
        if facts["namespace"] != runtime.current().settings.namespace:
            return  # of another cache in this process, whose broker is not known here
        try:
            publish(name, facts, event_id=cold_id(facts["shard"], facts["incarnation"]))
            return
        except NotSent:
            if wait is None:
                raise
            time.sleep(wait)


_post = _Post()


def _after_fork() -> None:
    """The thread stayed with the parent, which also publishes what waited."""
    global _post
    _post = _Post()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(lambda: _post.wait(AT_EXIT))
