"""The Celery app as workers, beat and Flower run it: `celery -A stoker.worker.app worker`.

Producers use the same app without what is added here. The module reads no settings until its `app` is asked for.
"""

from typing import Any

from celery import Celery

import stoker.tasks  # noqa: F401 - registers the tasks
from stoker.config import Settings
from stoker.tasks import broker_url, names
from stoker.tasks.app import StokerApp, configure
from stoker.tasks.app import app as shared
from stoker.tasks.schedule import beat_schedule
from stoker.worker import lifecycle
from stoker.worker.consumer import EventConsumer
from stoker.worker.last_snapshot import LastSnapshot
from stoker.worker.lease_renewal import LeaseRenewal

app: Celery


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(name)
    globals()["app"] = made = make_app(Settings())
    return made


def make_app(settings: Settings) -> StokerApp:
    """The app with these settings. A process has one app; calling this again reconfigures it.

    Raises:
        ConfigError: There is no broker.
    """
    configure(settings)
    shared.conf.update(worker_config(settings))
    shared.steps["consumer"] |= {LeaseRenewal, EventConsumer}
    shared.steps["worker"].add(LastSnapshot)
    lifecycle.connect()
    return shared


def worker_config(settings: Settings) -> dict[str, Any]:
    """What workers and beat add to the configuration of producers."""
    worker, job = settings.worker, settings.job
    return {
        # A message is acknowledged when its task has ended, so whatever kills a worker loses none.
        "task_acks_late": True,
        "task_acks_on_failure": True,
        "task_acks_on_timeout": True,
        "task_retry_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        "task_soft_time_limit": job.soft_time_limit,
        "task_time_limit": job.time_limit,
        "worker_pool": "prefork",  # the only pool with time limits and revocation
        "worker_concurrency": worker.concurrency,
        "worker_consumer": "stoker.worker.safe_consumer:SafeConsumer",
        "worker_soft_shutdown_timeout": worker.shutdown_timeout,
        "worker_cancel_long_running_tasks_on_connection_loss": False,  # would lose them
        "worker_send_task_events": True,
        "worker_hijack_root_logger": False,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,  # wait for the broker as long as it takes
        "broker_transport_options": {
            **broker_url.transport_options(settings.broker(), 2, 5),
            # Of this namespace alone: a worker of another one would drop the events that it gives back.
            "unacked_key": names.queue(settings.namespace, "unacked"),
            "unacked_index_key": names.queue(settings.namespace, "unacked_index"),
            "unacked_mutex_key": names.queue(settings.namespace, "unacked_mutex"),
            "visibility_timeout": worker.visibility_timeout,
            "unacked_restore_interval": worker.restore_every,
            "unacked_restore_throttle": 1,  # look every time, not every tenth
            "unacked_mutex_expire": 2,  # one that was killed while it looked would stop all others for 5 minutes
            "socket_keepalive": True,
            "health_check_interval": 25,
        },
        "beat_schedule": beat_schedule(settings),
        "beat_scheduler": "celery.beat:Scheduler",  # all entries come from the settings: no file to keep
        "beat_enable_remote_control": True,
    }
