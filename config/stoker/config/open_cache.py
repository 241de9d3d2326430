"""Settings to Cache: the only place where a cache is put together from the environment."""

from stoker.cache import Cache, Hooks
from stoker.config.settings import Settings


def open_cache(settings: Settings, hooks: Hooks | None = None) -> Cache:
    """Return a cache with these settings. It does not connect before its first use."""
    return Cache(settings.cache_config(), hooks=hooks)
