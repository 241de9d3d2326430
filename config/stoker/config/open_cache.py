"""Settings to Cache: the only place where a cache is put together from the environment."""

from collections.abc import Callable
from importlib import import_module

from stoker.cache import Cache, CacheSharder, CacheShardingConfig, ConfigError, Hooks
from stoker.config.settings import Settings


def open_cache(settings: Settings, hooks: Hooks | None = None) -> Cache:
    """Return a cache with these settings. It does not connect before its first use.

    Raises:
        ConfigError: `shard_key_func` cannot be imported, or returns no int; `shard_pins` names a shard that is none.
    """
    cache = Cache(settings.cache_config(), hooks=hooks)
    function = _function(settings.shard_key_func)
    CacheSharder(cache, CacheShardingConfig(True, settings.num_shards, function, settings.shard_pins))
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
