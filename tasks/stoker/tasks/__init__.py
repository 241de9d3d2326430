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
from stoker.tasks import engine_events, send
from stoker.tasks import hot_replay as hot_replay  # its plan and its rule are there from the first
from stoker.tasks.actions import Action, Evict, Invalidate, InvalidateTags, Rebalance, Refresh, Warm
from stoker.tasks.app import configure
from stoker.tasks.errors import (
    InvalidArguments,
    JobAborted,
    JobError,
    JobFailed,
    JobLost,
    NotSent,
    PlanError,
    RuleError,
    StateUnavailable,
    TaskError,
)
from stoker.tasks.events import Event
from stoker.tasks.evict import evict
from stoker.tasks.handle import JobHandle
from stoker.tasks.hot import hot
from stoker.tasks.hot_keys import hottest
from stoker.tasks.invalidate import invalidate
from stoker.tasks.plans import warm_plan
from stoker.tasks.publish import publish
from stoker.tasks.react import react
from stoker.tasks.reap import reap
from stoker.tasks.rebalance import rebalance
from stoker.tasks.refresh import refresh
from stoker.tasks.reshard import reshard
from stoker.tasks.rules import Explained, explain_event, on_event
from stoker.tasks.status import JobStatus
from stoker.tasks.sweep import sweep
from stoker.tasks.tick import tick
from stoker.tasks.warm import warm
from stoker.tasks.warm_batch import warm_batch
from stoker.tasks.watch import watch

hooks = Hooks(on_refresh=send.refresh, on_event=engine_events.tell)
"""For `open_cache`: lets workers refresh what this process's readers find stale; publishes the cache's own events."""

__all__ = [
    "Action",
    "Event",
    "Evict",
    "Explained",
    "InvalidArguments",
    "Invalidate",
    "InvalidateTags",
    "JobAborted",
    "JobError",
    "JobFailed",
    "JobHandle",
    "JobLost",
    "JobStatus",
    "NotSent",
    "PlanError",
    "Rebalance",
    "Refresh",
    "RuleError",
    "StateUnavailable",
    "TaskError",
    "Warm",
    "configure",
    "evict",
    "explain_event",
    "hooks",
    "hot",
    "hottest",
    "invalidate",
    "on_event",
    "publish",
    "react",
    "reap",
    "rebalance",
    "refresh",
    "reshard",
    "send",
    "sweep",
    "tick",
    "warm",
    "warm_batch",
    "warm_plan",
    "watch",
]
