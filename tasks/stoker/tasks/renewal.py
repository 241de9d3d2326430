"""Keeps what a task holds, such as its job's lock, alive while it works for longer than that lives."""

import logging
import threading
from collections.abc import Callable
from types import TracebackType

from stoker.tasks.errors import StateUnavailable

log = logging.getLogger(__name__)


class Renewal:
    """Renews three times in the life of what is held, in a thread, until the block ends.

    A refusal is not reported from here: the task meets the same one at its next step.

    Args:
        what: Names it in the log.
        life: Seconds for which it is held after each renewal.
        renew: Tells whether it is still held.
    """

    def __init__(self, what: str, life: float, renew: Callable[[], bool]) -> None:
        self._what = what
        self._every = life / 3
        self._renew = renew
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"renew {what}", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            try:
                if not self._renew():
                    return
            except StateUnavailable as error:
                log.warning("%s not renewed: %s", self._what, error)
