"""Jobs on the cache, as Celery tasks, and how an app asks for them.

The public names of `stoker.tasks`. A producer needs no more than `send`; the tasks are here too, with `.delay()` and
`.apply_async()`. Everything is read from `STOKER_*` on first use, unless `configure` was given settings.
"""

try:
    import celery as _  # noqa: F401
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        f"stoker.tasks needs {missing.name}: run  pip install 'stoker[tasks]'", name=missing.name
    ) from missing

from stoker.cache import Hooks
from stoker.tasks import send
from stoker.tasks.app import configure
from stoker.tasks.errors import (
    InvalidArguments,
    JobAborted,
    JobError,
    JobFailed,
    JobLost,
    NotSent,
    PlanError,
    StateUnavailable,
    TaskError,
)
from stoker.tasks.evict import evict
from stoker.tasks.handle import JobHandle
from stoker.tasks.invalidate import invalidate
from stoker.tasks.plans import warm_plan
from stoker.tasks.reap import reap
from stoker.tasks.refresh import refresh
from stoker.tasks.status import JobStatus
from stoker.tasks.sweep import sweep
from stoker.tasks.tick import tick
from stoker.tasks.warm import warm

hooks = Hooks(on_refresh=send.refresh)
"""For `open_cache`: lets workers refresh what this process's readers find stale."""

__all__ = [
    "InvalidArguments",
    "JobAborted",
    "JobError",
    "JobFailed",
    "JobHandle",
    "JobLost",
    "JobStatus",
    "NotSent",
    "PlanError",
    "StateUnavailable",
    "TaskError",
    "configure",
    "evict",
    "hooks",
    "invalidate",
    "reap",
    "refresh",
    "send",
    "sweep",
    "tick",
    "warm",
    "warm_plan",
]
