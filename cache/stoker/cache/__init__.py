"""Stoker's cache engine: the public names.

Reading order: `core` (every request; `engine` and `aio` perform it), `flight` (one load per key), `protocol` (the
rules), `bans` and `entry` (what they are about), then the backends and the verbs `warm`, `sweep`, `evict`,
`rebalance`, `reshard`.
"""

from stoker.cache.aio import AsyncCache
from stoker.cache.balance import RebalancePlan
from stoker.cache.engine import Cache
from stoker.cache.errors import (
    CacheError,
    CacheUnavailable,
    ConfigError,
    InvalidationNotAcknowledged,
    InvalidName,
    InvalidPattern,
    LoaderError,
    PlacementMismatch,
    ValueNotSerializable,
)
from stoker.cache.evict import EvictReport
from stoker.cache.loaders import LoadKey, loader
from stoker.cache.matching import Matching
from stoker.cache.monitor import CacheMonitor, CacheMonitorConfig
from stoker.cache.options import CacheConfig, Hooks
from stoker.cache.rebalance import RebalanceReport
from stoker.cache.requests import Token
from stoker.cache.reshard import ReshardReport
from stoker.cache.sharder import CacheSharder, CacheShardingConfig
from stoker.cache.stats import CacheStats
from stoker.cache.steps import Step
from stoker.cache.sweep import SweepReport
from stoker.cache.warm_report import WarmReport
from stoker.cache.warmer import CacheWarmer, CacheWarmingConfig

CacheMechanism = Cache

__all__ = [
    # the cache
    "AsyncCache",
    "Cache",
    "CacheConfig",
    "CacheMechanism",
    "Hooks",
    "Token",
    # companions
    "CacheMonitor",
    "CacheMonitorConfig",
    "CacheSharder",
    "CacheShardingConfig",
    "CacheWarmer",
    "CacheWarmingConfig",
    # loaders
    "LoadKey",
    "loader",
    # reports
    "CacheStats",
    "EvictReport",
    "Matching",
    "RebalancePlan",
    "RebalanceReport",
    "ReshardReport",
    "Step",
    "SweepReport",
    "WarmReport",
    # errors
    "CacheError",
    "CacheUnavailable",
    "ConfigError",
    "InvalidName",
    "InvalidPattern",
    "InvalidationNotAcknowledged",
    "LoaderError",
    "PlacementMismatch",
    "ValueNotSerializable",
]
