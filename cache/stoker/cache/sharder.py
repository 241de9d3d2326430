"""`CacheSharder`: spreads a cache over several shards, each with a ban log of its own, on a server or a cluster."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from stoker.cache.engine import Cache
from stoker.cache.errors import ConfigError
from stoker.cache.shards import Placement
from stoker.cache.tenancy import check_key, tenant_field


@dataclass(slots=True)
class CacheShardingConfig:
    """How keys are spread.

    Attributes:
        enabled: Whether they are; `enable_sharding()` sets it.
        num_shards: 1 to 1024; None: as many as the namespace has, and 1, or 64 on a cluster, in a new one. An
            invalidation by pattern, tag or tenant goes to every shard, so its cost grows with it.
        shard_key_func: Called with a key, returns an int; must give the same answers in every process. None hashes
            tenant and key.
        pins: Tenants whose keys all live in one shard, and its number. An invalidation of such a tenant goes to that
            shard alone. At most 1,000. None: those that the namespace has.
    """

    enabled: bool = False
    num_shards: int | None = 4
    shard_key_func: Callable[[str], int] | None = None
    pins: Mapping[str, int] | None = None


class CacheSharder:
    """Sharding of one cache.

    The process that opens a namespace first writes down how it is sharded. Others go by that; one that was told
    otherwise is refused at its first operation. `Cache.reshard` changes it. On the memory backend shards only say
    where a key would live.

    Raises:
        ConfigError: As `Placement`; and with `config.enabled`, as `enable_sharding`.
    """

    def __init__(self, cache: Cache, config: CacheShardingConfig | None = None) -> None:
        self.config = config or CacheShardingConfig()
        self._cache = cache
        backend = cache._core.backend
        self._placement = Placement(
            self.config.num_shards,
            self.config.shard_key_func,
            self.config.pins,
            default=backend.default_shards,
        )
        if self.config.enabled:
            self.enable_sharding()

    def enable_sharding(self) -> None:
        """Spread the cache's keys from now on.

        Raises:
            ConfigError: The cache was used already: what it holds would not be found any more.
        """
        self._cache._core.backend.place(self._placement)
        self.config.enabled = True

    def shard_for(self, key: str, tenant_id: str | None = None) -> int:
        """The number of the shard that the key lives in, once sharding is enabled.

        What is left to the namespace is known after the cache's first operation.
        """
        placement = self._cache._core.backend.placement if self.config.enabled else self._placement
        return placement.shard_of(tenant_field(tenant_id), check_key(key))

    def distribution(self) -> dict[int, int]:
        """Entries by shard. On Redis it scans the server; expired entries are not counted, banned ones are.

        Raises:
            ConfigError: Sharding is not enabled.
            CacheUnavailable: The server cannot be asked.
        """
        if not self.config.enabled:
            raise ConfigError("enabled", False, "call enable_sharding() first")
        return self._cache._run(self._cache._core.backend.entries_by_shard())
