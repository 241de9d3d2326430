"""What a worker does when it starts and stops, beyond what Celery does: refuse what cannot work, import the loaders,
open the cache in each process, close it again, make its warm plans known and start those that run at the start, and
note when an operator revokes a job's task."""

import importlib
import logging
import threading
import time
from typing import Any

from celery import signals
from celery.utils.dispatch import Signal
from celery.worker import state

from stoker.cache import ConfigError, LoaderError
from stoker.config import Settings, setup_logging
from stoker.tasks import plans, rules, runtime, send
from stoker.tasks.errors import NotSent, PlanError, StateUnavailable
from stoker.tasks.job import ANY
from stoker.tasks.tick import start_up
from stoker.worker import memory_settings

log = logging.getLogger(__name__)

_STARTUP_WAITS = (1.0, 2.0, 4.0, 8.0, 15.0)


def connect() -> None:
    """Have Celery call this module in this process's worker."""
    handlers: list[tuple[Signal, Any]] = [
        (signals.setup_logging, lambda **_: setup_logging(runtime.current().settings)),
        (signals.worker_init, lambda **_: start(runtime.current().settings)),
        (signals.worker_ready, lambda **_: warm_on_startup()),
        (signals.worker_process_init, lambda **_: runtime.current().cache.ping()),
        (signals.worker_process_shutdown, lambda **_: runtime.current().close()),
        (signals.worker_shutdown, lambda **_: runtime.current().close()),
        (signals.task_revoked, revoked),
    ]
    for signal, handler in handlers:
        signal.connect(handler, weak=False, dispatch_uid="stoker")


def start(settings: Settings) -> None:
    """Check what a worker needs. Celery logs and forgets what a signal's handler raises, so this exits instead."""
    try:
        check_cache(settings)
        import_loaders(settings.loaders)
        plans.known(settings)
        memory_settings.check(settings)
    except (ConfigError, LoaderError, PlanError) as error:
        raise SystemExit(f"stoker worker: {error}") from error


def warm_on_startup() -> threading.Thread:
    """Make this worker's plans and rules known, and start the plans that run when workers start, without keeping the
    worker."""
    thread = threading.Thread(target=_warm_on_startup, name="warm on startup", daemon=True)
    thread.start()
    return thread


def _warm_on_startup() -> None:
    for wait in _STARTUP_WAITS:
        try:
            runtime.current().events.announce(rules.known())
            start_up(runtime.current())
            return
        except (StateUnavailable, NotSent) as error:
            log.warning("warm plans could not be started: %s; again in %g s", error, wait)
            time.sleep(wait)
    log.error("warm plans could not be started with this worker; ticks start them when they are due")


def check_cache(settings: Settings) -> None:
    """Refuse the memory backend.

    Raises:
        ConfigError: No cache server is set.
    """
    if settings.cache_url is None:
        remedy = "name the cache server that the apps use, such as redis://localhost:6379/0"
        raise ConfigError("STOKER_CACHE_URL", None, f"{remedy}; the memory backend shares nothing with them")


def import_loaders(modules: tuple[str, ...]) -> None:
    """Import the modules that register loaders.

    Raises:
        LoaderError: One of them cannot be imported; the text says which and why.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:
            raise LoaderError(
                f"STOKER_LOADERS: {module!r} cannot be imported ({type(error).__name__}: {error}); "
                "check its name, and that it is on the worker's PYTHONPATH"
            ) from error


def revoked(request: Any, expired: bool = False, **_: Any) -> None:
    """An operator revoked a job's task: the job is over, or the reaper would send it again. If it has begun what goes
    on by itself, a worker has to end that first, under another task's id: Celery refuses this one from now on.

    Celery says the same of a message that came too late. That ends nothing: the job which an earlier delivery of it
    began goes on under the same id, which Celery would go on refusing.
    """
    if expired:
        state.revoked.discard(request.id)
        return
    try:
        answer = runtime.current().jobs.finish(request.id, "aborted", ANY, {"error": "its task was revoked"})
        if answer == "asked":
            send.instead(request.id, request.task)
    except (StateUnavailable, NotSent) as error:
        log.warning("job %s was revoked, but that could not be written down: %s", request.id, error)
