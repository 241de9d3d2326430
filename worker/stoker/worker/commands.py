"""The command lines of Celery's own processes, with our settings. `cli` executes them, `up` starts them as children."""

import sys
from collections.abc import Iterable
from pathlib import Path

from stoker.config import Settings
from stoker.worker.queues import queue_names

WORKER_ENV = {"REMAP_SIGTERM": "SIGQUIT"}
"""A worker's SIGTERM means: tasks get `shutdown_timeout` to end, then their messages go back at once."""


def worker(
    settings: Settings, *, name: str, queues: Iterable[str] = (), concurrency: int | None = None
) -> list[str]:
    """A worker of these queues, all of them if none is named. Give it `WORKER_ENV`.

    Raises:
        ConfigError: There is no such queue.
    """
    size = [] if concurrency is None else [f"--concurrency={concurrency}"]
    served = ",".join(queue_names(settings, queues))
    # What workers would tell each other, a job's record says already; without it they start a second sooner.
    alone = ("--without-gossip", "--without-mingle")
    return [
        *_celery("worker"),
        _level(settings),
        *alone,
        f"--queues={served}",
        f"--hostname={name}@%h",
        *size,
    ]


def beat(settings: Settings, *, name: str = "stoker-beat") -> list[str]:
    """The scheduler; it keeps no file."""
    return [*_celery("beat"), _level(settings), "--pidfile=", f"--hostname={name}@%h"]


def flower() -> list[str]:
    """Flower with the options of `stoker.worker.flower`; it has a logging of its own."""
    return [*_celery("flower"), f"--conf={Path(__file__).with_name('flowerconfig.py')}"]


def _celery(program: str) -> list[str]:
    return [sys.executable, "-m", "celery", "-A", "stoker.worker.app", program]


def _level(settings: Settings) -> str:
    return f"--loglevel={settings.log_level}"
