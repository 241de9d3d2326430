"""Delivers every task twice, in the process that sends it: the second time under the same id, often late.

That a message may come again is what the broker says of itself. Here it always does: at once, so that two workers
have it at the same time, or when the first has long been done.
"""

import random
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError

_COPY = "copy"
_DELAYS_S = (0.0, 0.0, 0.1, 0.5, 1.5, 4.0)


def deliver_twice(app: Celery, chance: random.Random, counted: Callable[[], None]) -> None:
    """Have this process send every message of the app twice; `counted` is called for each second one.

    What a second delivery sends in its turn is not doubled again, or a job that is tried again a few times would flood
    the broker.
    """
    send_task = app.send_task
    counting = threading.Lock()

    def send_twice(name: str, *arguments: Any, **options: Any) -> Any:
        sent = send_task(name, *arguments, **options)
        headers = options.get("headers") or {}
        if not headers.get(_COPY) and not _copy_is_running(app):
            countdown = (options.get("countdown") or 0) + chance.choice(_DELAYS_S)
            copy: dict[str, Any] = {
                "task_id": sent.id,
                "countdown": countdown or None,
                "headers": {**headers, _COPY: True},
            }
            with suppress(OperationalError):  # the broker is gone since the first
                send_task(name, *arguments, **{**options, **copy})
                with counting:
                    counted()
        return sent

    app.send_task = send_twice  # type: ignore[method-assign]


def _copy_is_running(app: Celery) -> bool:
    task = app.current_worker_task
    return task is not None and bool((task.request.headers or {}).get(_COPY))
