"""Keeps a live worker's messages its own.

On Redis a message that is not acknowledged within the visibility timeout is given to another worker, even while
its task runs. Renewed from here, that time can be short: a task may run longer than it, and the messages of a
killed worker still come back within seconds. It runs in the worker's main process, so a task process that hangs is
bounded by the time limits, not by this.
"""

import logging
import time
from typing import Any

from celery import bootsteps
from celery.worker import state

log = logging.getLogger(__name__)


class LeaseRenewal(bootsteps.StartStopStep):
    """Renews three times in each visibility timeout."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        self._timer: Any = None
        super().__init__(parent, **kwargs)

    def start(self, parent: Any) -> None:
        timeout = parent.app.conf.broker_transport_options["visibility_timeout"]
        self._timer = parent.timer.call_repeatedly(timeout / 3, self.renew, (parent,))

    def stop(self, parent: Any) -> None:  # noqa: ARG002 - Celery passes it
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    shutdown = stop

    def renew(self, parent: Any) -> None:
        """Give every message that this worker holds the present time in the broker's index."""
        try:
            channel = parent.task_consumer.channel
            if held := set(channel.qos._delivered) | _held_since_before_a_reconnect():
                now = time.time()
                with channel.conn_or_acquire() as client:
                    client.zadd(channel.unacked_index_key, dict.fromkeys(held, now), xx=True)
        except parent.connection_errors as error:
            log.warning("leases of messages not renewed: %r", error)


def _held_since_before_a_reconnect() -> set[str]:
    requests = (*state.active_requests, *state.reserved_requests)
    return {request.message.delivery_tag for request in requests if not request.acknowledged}
