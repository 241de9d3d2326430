"""Publishing events: the exchange, the queue that keeps them for the workers, and how one is put there.

Both are declared by whoever publishes and by whoever consumes, so an event waits for the first worker there ever is.
On Redis a declaration is one entry of a set, and kombu remembers having made it: here the set is looked at before each
event, so that one which was lost with a flush of the broker is made again.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from kombu import Exchange, Queue
from kombu.exceptions import OperationalError

from stoker.config import Settings
from stoker.tasks import events, names, runtime
from stoker.tasks.app import app
from stoker.tasks.errors import NotSent, StateUnavailable

PERSISTENT = 2
_EVERYTHING = "#"


def publish(
    name: str, payload: Mapping[str, Any], tenant_id: str | None = None, event_id: str | None = None
) -> str:
    """Tell the workers that something happened; their rules (`on_event`) say what follows. Returns the event's id.

    Publish after the commit, or a rule may load what was there before. With the servers down this takes about a tenth
    of a second, with them frozen about one.

    Args:
        name: Dotted words, such as `user.updated`.
        payload: What happened, JSON-able, 64 KiB at most.
        tenant_id: Whose it is: where a rule's action names no tenant, this one is meant.
        event_id: Events of one id are handled once; a random one if left out.

    Raises:
        InvalidArguments: Something of it cannot be used.
        NotSent: The broker or the state server did not take it.
    """
    event = events.make(name, payload, tenant_id, event_id)
    store = runtime.current().events
    try:
        state = store.open(event)
    except StateUnavailable as error:
        raise NotSent(f"event {name}", error.reason) from error
    if state == "seen to":
        return event.id
    try:
        with app.producer_or_acquire() as producer:
            bounded = producer.connection.ensure(producer, _put, max_retries=0)
            bounded(producer, event, incoming(runtime.current().settings))
    except OperationalError as error:
        if state == "new":
            with suppress(StateUnavailable):  # then the reaper sends it, late rather than never
                store.withdraw(event)
        raise NotSent(f"event {name}", str(error)) from error
    return event.id


def incoming(settings: Settings) -> Queue:
    """The queue in which the namespace's events wait, bound to everything that its exchange gets."""
    exchange = Exchange(f"{settings.namespace}.events", type="topic", durable=True)
    return Queue(
        names.queue(settings.namespace, "published"), exchange, routing_key=_EVERYTHING, durable=True
    )


def declare(queue: Queue, channel: Any) -> None:
    """Make sure that the exchange is known to this connection, and the queue bound to it on the server."""
    bound = queue(channel)
    bound.exchange.declare()  # no round trip: the type of an exchange is known to each connection by itself
    if queue.name not in {name for _, _, name in channel.get_table(queue.exchange.name)}:
        bound.unbind_from(queue.exchange, _EVERYTHING)  # what this connection remembers
        bound.declare()


def _put(producer: Any, event: events.Event, queue: Queue) -> None:
    declare(queue, producer.channel)
    producer.publish(
        event.model_dump(),
        exchange=queue.exchange,
        routing_key=event.name,
        serializer="json",
        delivery_mode=PERSISTENT,
    )
