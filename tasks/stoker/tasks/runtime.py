"""What the tasks of one process share: its settings, stores and cache, each made on first use.

Settings are read from the environment once, unless `configure` gave them before. After a fork the child makes its
own: connections are never shared between processes.
"""

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from stoker.cache import Cache, Hooks
from stoker.config import Settings, open_cache
from stoker.tasks.budget import FleetBudget
from stoker.tasks.event_store import EventStore
from stoker.tasks.hot_snapshots import HotSnapshots
from stoker.tasks.hot_store import HotStore
from stoker.tasks.job import JobStore
from stoker.tasks.plan_store import PlanStore
from stoker.tasks.pressure_store import PressureStore
from stoker.tasks.work import SharedWork


class Runtime:
    """The settings of a process and what is built from them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @cached_property
    def jobs(self) -> JobStore:
        return JobStore(self.settings.state(), self.settings.namespace, self.settings.job)

    @cached_property
    def plans(self) -> PlanStore:
        return PlanStore(self.settings.state(), self.settings.namespace)

    @cached_property
    def budget(self) -> FleetBudget:
        settings = self.settings
        return FleetBudget(settings.state(), settings.namespace, settings.max_load, settings.job.lock_ttl)

    @contextmanager
    def work(self, job_id: str) -> Iterator[SharedWork]:
        """What the warm of this job shares with its workers; what is taken of it is kept inside the block."""
        shared = SharedWork(self.settings.state(), self.settings.namespace, self.settings.job, job_id)
        try:
            with shared.kept():
                yield shared
        finally:
            shared.disconnect()

    @cached_property
    def hot(self) -> HotStore:
        return HotStore(self.settings.state(), self.settings.namespace, self.settings.hot)

    @cached_property
    def hot_snapshots(self) -> HotSnapshots:
        return HotSnapshots(self.settings.state(), self.settings.namespace)

    @cached_property
    def events(self) -> EventStore:
        settings = self.settings
        return EventStore(settings.state(), settings.namespace, settings.event, settings.job)

    @cached_property
    def pressure(self) -> PressureStore:
        return PressureStore(self.settings.state(), self.settings.namespace)

    @cached_property
    def cache(self) -> Cache:
        return open_cache(self.settings, Hooks(on_event=_tell))

    def close(self) -> None:
        """Close what was opened."""
        for name in ("cache", "jobs", "plans", "budget", "events", "hot", "hot_snapshots", "pressure"):
            if (opened := self.__dict__.pop(name, None)) is not None:
                opened.close()


def _tell(name: str, facts: Mapping[str, Any]) -> None:
    from stoker.tasks import engine_events  # it publishes, for which it needs the runtime

    engine_events.tell(name, facts)


_lock = threading.RLock()
_runtime: Runtime | None = None


def current() -> Runtime:
    """This process's runtime.

    Raises:
        InvalidSettings: The environment does not hold usable settings.
    """
    global _runtime
    if _runtime is None:
        with _lock:
            if _runtime is None:
                _runtime = Runtime(Settings())
    return _runtime


def replace(settings: Settings) -> None:
    """Close the present runtime, if any, and go on with these settings."""
    global _runtime
    with _lock:
        if _runtime is not None:
            _runtime.close()
        _runtime = Runtime(settings)


def _after_fork() -> None:
    """Keep the settings, leave the parent's connections alone."""
    global _runtime, _lock
    _lock = threading.RLock()
    if _runtime is not None:
        _runtime = Runtime(_runtime.settings)


os.register_at_fork(after_in_child=_after_fork)
