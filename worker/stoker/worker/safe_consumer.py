"""A consumer that survives a restart of the broker.

Celery 5.7.0 drops the transport of a broken connection and closes the connection afterwards; the close then gives
back the unacknowledged messages over the transport that is gone, which ends the worker with an AttributeError. Here
the connection forgets its default channel in between, so there is nothing left to give back: those messages return
by themselves after the visibility timeout. The channel's pools stay, because a task that is still running
acknowledges over them later.
"""

from typing import Any

from celery.worker.consumer import Consumer


class SafeConsumer(Consumer):
    """Celery's consumer, made to outlive a lost connection with unacknowledged messages."""

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
