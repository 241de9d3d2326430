"""Takes published events out of their queue and hands each to the task `stoker.react`.

It runs in the worker's main process, beside Celery's own consumer, so it does nothing with an event but send it on, and
acknowledges it after that: what is not sent is delivered again. Workers that serve the queue `events` do it; the others
only make the exchange known to their connection, because any of them may be the one that gives back the messages of a
worker that died, and kombu drops what belongs to an exchange it does not know.
"""

import logging
from typing import Any

from celery import bootsteps
from kombu import Consumer
from kombu.exceptions import EncodeError

from stoker.tasks import names, runtime
from stoker.tasks.errors import InvalidArguments, NotSent
from stoker.tasks.events import MOST_BYTES
from stoker.tasks.publish import declare, incoming
from stoker.tasks.react import ask

log = logging.getLogger(__name__)

MOST_MESSAGE_BYTES = 4 * MOST_BYTES
AT_ONCE = 10
"""Events that this worker takes before the first of them is sent on."""


class EventConsumer(bootsteps.ConsumerStep):
    """Starts with each connection to the broker."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, c: Any) -> None:
        settings = runtime.current().settings
        queue = incoming(settings)
        declare(queue, c.task_consumer.channel)
        self._lost = c.connection_errors
        if names.queue(settings.namespace, names.QUEUE_OF[names.REACT]) in c.app.amqp.queues.consume_from:
            super().start(c)

    def stop(self, c: Any) -> None:
        if c.connection is not None:  # when it was lost there is nothing to cancel
            super().stop(c)

    def get_consumers(self, channel: Any) -> list[Consumer]:
        queue = incoming(runtime.current().settings)
        return [Consumer(channel, [queue], on_message=self.hand_on, accept=["json"], prefetch_count=AT_ONCE)]

    def hand_on(self, message: Any) -> None:
        """Send one event on, then acknowledge it. What is no event is dropped with a line in the log.

        Raises:
            ConnectionError: It could not be sent; the worker connects anew, and gets it again.
        """
        event = _read(message)
        if event is None:
            self._drop(message)
            return
        try:
            ask(event)
        except NotSent as error:
            raise ConnectionError(str(error)) from error
        except (InvalidArguments, EncodeError):
            self._drop(message)
        else:
            message.ack()

    def _drop(self, message: Any) -> None:
        log.error("what is no event is dropped: %.200r %.200r", message.headers, message.body)
        message.reject_log_error(log, self._lost)


def _read(message: Any) -> dict[str, Any] | None:
    """The event's fields; None if it holds anything else."""
    try:
        if len(message.body) > MOST_MESSAGE_BYTES:
            return None
        found = message.decode()
    except Exception:  # whatever kombu raises for garbage, of any encoding
        return None
    return found if isinstance(found, dict) else None
