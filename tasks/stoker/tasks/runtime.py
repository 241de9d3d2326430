"""What the tasks of one process share: its settings, jobs, plans, budgets and cache, each made on first use.

Settings are read from the environment once, unless `configure` gave them before. After a fork the child makes its
own: connections are never shared between processes.
"""

import os
import threading
from functools import cached_property

from stoker.cache import Cache
from stoker.config import Settings, open_cache
from stoker.tasks.budget import FleetBudget
from stoker.tasks.job import JobStore
from stoker.tasks.plan_store import PlanStore


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
        return FleetBudget(self.settings.state(), self.settings.namespace, self.settings.max_load)

    @cached_property
    def cache(self) -> Cache:
        return open_cache(self.settings)

    def close(self) -> None:
        """Close what was opened."""
        for name in ("cache", "jobs", "plans", "budget"):
            if (opened := self.__dict__.pop(name, None)) is not None:
                opened.close()


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
