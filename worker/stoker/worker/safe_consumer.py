"""A consumer that survives a restart of the broker, and messages in a queue that belong to no task.

Celery 5.7.0 drops the transport of a broken connection and closes the connection afterwards; the close then gives
back the unacknowledged messages over the transport that is gone, which ends the worker with an AttributeError. Here
the connection forgets its default channel in between, so there is nothing left to give back: those messages return
by themselves after the visibility timeout. The channel's pools stay, because a task that is still running
acknowledges over them later.

Celery meets garbage with whatever Python raises: the worker ends, or takes the connection for lost and is given the
same message again. Here, what is no message counts as a lost connection, after which it is gone, and a message that is
no task's is dropped with a line in the log.
"""

import logging
from collections.abc import Callable
from typing import Any

from celery.worker.consumer import Consumer
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

log = logging.getLogger(__name__)


class SafeConsumer(Consumer):
    """Celery's consumer, made to outlive a lost connection with unacknowledged messages, and garbage in a queue."""

    connection_errors: tuple[type[BaseException], ...]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.connection_errors = (*self.connection_errors, ValueError, TypeError, RecursionError)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        handle = super().create_task_handler(*args, **kwargs)

        def handle_tasks(message: Any) -> Any:
            try:
                return handle(message)
            except (OSError, RedisError, KombuError):  # the broker's trouble, not the message's
                raise
            except Exception:
                log.exception(
                    "a message that is no task's is dropped: %.200r %.200r", message.headers, message.body
                )
                return message.reject_log_error(log, self.connection_errors)

        return handle_tasks

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        connection = self.connection
        if connection is not None:
            connection.collect = _forgetting(connection)  # type: ignore[method-assign]
        super().on_connection_error_after_connected(exc)


def _forgetting(connection: Any) -> Any:
    collect = connection.collect

    def collect_and_forget(*args: Any, **kwargs: Any) -> None:
        try:
            collect(*args, **kwargs)
        finally:
            connection._default_channel = None

    return collect_and_forget
