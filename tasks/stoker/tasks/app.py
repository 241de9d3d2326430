"""The Celery app that the tasks belong to, in producers as in workers. It is never the process's current app, so a
producer's own Celery is not disturbed, and reads nothing before its first use.

Here is what both sides must agree on, and what keeps a producer from hanging: every wait for the broker is
bounded and nothing is retried behind the caller's back. `stoker.worker.app` adds what only workers need.
"""

from collections.abc import Callable
from typing import Any

from celery import Celery
from kombu import Exchange, Queue, pools

from stoker.config import Settings
from stoker.tasks import broker_url, names, runtime

CONNECT_TIMEOUT = 0.5
TIMEOUT = 1.0


class StokerApp(Celery):
    """A Celery app whose configuration is made from `Settings`; Celery's own sources of it are not read."""

    backend_cls = "disabled"  # the truth about a job is in its hash

    _pool: Any
    configured: bool
    _load_config: Callable[[], Any]

    def prepare_config(self, c: object) -> Any:  # noqa: ARG002 - what Celery found elsewhere
        return common(runtime.current().settings)

    def reload(self) -> None:
        """Close all connections and take the present settings, unless nothing was read yet."""
        if self.configured:
            connection = self.connection_for_write()
            for group in (pools.producers, pools.connections):  # kombu keeps them for all apps of the process
                if connection in group:
                    group[connection].force_close_all()
                    del group[connection]
            self._conf = self._load_config()
        self._pool = None
        self.__dict__.pop("amqp", None)


def common(settings: Settings) -> dict[str, Any]:
    """The configuration of producers; workers add to it."""
    broker = broker_url.for_celery(settings.broker())
    return {
        "broker_url": broker,
        "broker_read_url": broker,  # both said, because CELERY_BROKER_URL in the environment would
        "broker_write_url": broker,  # beat the plain one: it is another app's
        "broker_use_ssl": broker_url.use_ssl(settings.broker()),
        "broker_transport_options": {
            **broker_url.transport_options(settings.broker(), CONNECT_TIMEOUT, TIMEOUT),
            "visibility_timeout": settings.worker.visibility_timeout,  # the shortest of all sharers would win
            "socket_keepalive": True,
            "max_retries": 0,
        },
        "broker_pool_acquire_timeout": TIMEOUT,
        "task_publish_retry_policy": {"max_retries": 0},  # `retry=False` would wait longer
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_ignore_result": True,
        "task_send_sent_event": True,
        "task_queues": [declared(settings, name) for name in names.QUEUES],
        "task_routes": {
            task: {"queue": names.queue(settings.namespace, queue)} for task, queue in names.QUEUE_OF.items()
        },
        "task_default_queue": names.queue(settings.namespace, names.QUEUES[-1]),
        "task_create_missing_queues": False,
        "timezone": "UTC",
        "enable_utc": True,
    }


def declared(settings: Settings, name: str) -> Queue:
    full = names.queue(settings.namespace, name)
    return Queue(full, Exchange(f"{settings.namespace}.tasks", type="direct"), routing_key=full)


app = StokerApp("stoker", set_as_current=False)


def configure(settings: Settings) -> None:
    """Use these settings instead of the environment's. Call it before the first send; later it reconnects."""
    runtime.replace(settings)
    app.reload()
