"""Settings to Cache: the only place where a cache is put together from the environment."""

from collections.abc import Callable
from importlib import import_module

from stoker.cache import Cache, CacheSharder, CacheShardingConfig, ConfigError, Hooks
from stoker.cache.shards import CLUSTER_SHARDS
from stoker.config.settings import Settings


def open_cache(settings: Settings, hooks: Hooks | None = None) -> Cache:
    """Return a cache with these settings. It does not connect before its first use.

    Raises:
        ConfigError: `shard_key_func` cannot be imported, or returns no int.
    """
    cache = Cache(settings.cache_config(), hooks=hooks)
    shards = settings.num_shards or (CLUSTER_SHARDS if settings.cache_cluster else 1)
    if shards > 1 or settings.cache_cluster:
        sharding = CacheShardingConfig(True, shards, _function(settings.shard_key_func))
        CacheSharder(cache, sharding)
    return cache


def _function(path: str | None) -> Callable[[str], int] | None:
    if path is None:
        return None
    module, _, name = path.partition(":")
    try:
        function: Callable[[str], int] = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError("STOKER_SHARD_KEY_FUNC", path, f"cannot be imported: {error}") from error
    return function
