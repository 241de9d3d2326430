"""Settings from the environment, and the cache built from them.

The public names of `stoker.config`. Environment variables are read here and nowhere else: `stoker.cache`
below knows nothing of them, `stoker.tasks` and `stoker.worker` above get a finished `Settings`.
"""

try:
    import pydantic_settings as _  # noqa: F401
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        f"stoker.config needs {missing.name}: run  pip install 'stoker[tasks]'", name=missing.name
    ) from missing

from stoker.config.effective import Effective, effective
from stoker.config.errors import InvalidSettings
from stoker.config.groups import (
    BeatSettings,
    EventSettings,
    FlowerSettings,
    HotSettings,
    JobSettings,
    MetricsSettings,
    RebalanceSettings,
    WorkerSettings,
)
from stoker.config.invalidations import ScheduledInvalidation
from stoker.config.limits import Limits
from stoker.config.logging import setup_logging
from stoker.config.open_cache import open_cache
from stoker.config.settings import Settings
from stoker.config.timing import Timing
from stoker.config.warm_plans import WarmPlan

__all__ = [
    "BeatSettings",
    "Effective",
    "EventSettings",
    "FlowerSettings",
    "HotSettings",
    "InvalidSettings",
    "JobSettings",
    "Limits",
    "MetricsSettings",
    "RebalanceSettings",
    "ScheduledInvalidation",
    "Settings",
    "Timing",
    "WarmPlan",
    "WorkerSettings",
    "effective",
    "open_cache",
    "setup_logging",
]
