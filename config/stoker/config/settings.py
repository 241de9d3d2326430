"""Everything an operator may change, read once at start from `STOKER_*`.

Sources, the first that names a value wins: arguments, the environment, `.env` in the working directory, files
in the secrets directory, defaults. What a cache setting means and may be is said once, in
`stoker.cache.CacheConfig`, which also checks it; here are only the names. Durations are seconds.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from stoker.cache import CacheConfig, ConfigError
from stoker.cache.shards import MOST_SHARDS
from stoker.config import names, problems
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
from stoker.config.invalidations import ScheduledInvalidation, parse_invalidations
from stoker.config.warm_plans import WarmPlan, parse_plans

_CACHE = CacheConfig()

_CACHE_FIELDS = {  # the setting -> its field of CacheConfig
    "cache_url": "redis_url",
    "cache_cluster": "cluster",
    "namespace": "namespace",
    "default_ttl": "default_ttl",
    "max_size": "max_size",
    "max_bytes": "max_bytes",
    "eviction": "eviction",
    "lease": "lease",
    "max_load": "max_load",
    "max_loads": "max_loads",
    "early_refresh": "early_refresh",
    "ttl_jitter": "ttl_jitter",
    "cache_connect_timeout": "connect_timeout",
    "cache_timeout": "timeout",
    "cache_max_connections": "max_connections",
    "cache_breaker_failures": "breaker_failures",
    "cache_breaker_reset": "breaker_reset",
    "boot_fence": "boot_fence",
    "compress_above": "compress_above",
    "max_value_bytes": "max_value_bytes",
    "high_watermark": "high_watermark",
    "low_watermark": "low_watermark",
    "near_size": "near_size",
    "near_bytes": "near_bytes",
    "near_bound": "near_bound",
    "near_all": "near_all",
}


class Settings(BaseSettings):
    """All settings of a process, checked and frozen.

    Raises:
        InvalidSettings: Every problem found: values out of bounds, and `STOKER_*` names that do not exist.
    """

    model_config = SettingsConfigDict(
        env_prefix=names.PREFIX,
        env_file=names.ENV_FILE,
        env_nested_delimiter=names.DELIMITER,
        env_ignore_empty=True,  # compose files pass unset variables on as empty ones
        env_parse_none_str="none",
        frozen=True,
        extra="ignore",  # of a .env shared with other programs; our own names are checked in `names`
        allow_inf_nan=False,
    )

    cache_url: str | None = Field(
        default=None,
        repr=False,
        description="The cache server's redis://, rediss://, redis+sentinel:// or unix:// URL; none: memory only.",
    )
    cache_cluster: bool = Field(
        default=_CACHE.cluster,
        description="Whether that server is a node of a cluster, through which the others are found.",
    )
    namespace: str = Field(
        default=_CACHE.namespace,
        description="Prefix of all keys and queues; 1 to 64 of A-Z a-z 0-9 _ . and -.",
    )
    default_ttl: float | None = Field(
        default=_CACHE.default_ttl,
        description="Seconds an entry lives when no ttl is given; above 0, none: no expiry.",
    )
    max_size: int = Field(default=_CACHE.max_size, description="Entries of the memory backend; 1 or more.")
    max_bytes: int | None = Field(
        default=_CACHE.max_bytes,
        description="Estimated bytes of the memory backend's entries; 1024 or more, none: no bound.",
    )
    eviction: Literal["lru", "s3fifo"] = Field(
        default=_CACHE.eviction,
        description="What the memory backend drops first: lru, or s3fifo, which withstands scans.",
    )
    lease: float = Field(
        default=_CACHE.lease, description="Seconds one process may load a key alone; 0.1 to max_load."
    )
    max_load: float = Field(
        default=_CACHE.max_load, description="Seconds a load may take to be stored; 0.1 to 3600."
    )
    max_loads: int = Field(
        default=_CACHE.max_loads, description="Loads that one process runs at once; 1 or more."
    )
    early_refresh: float = Field(
        default=_CACHE.early_refresh,
        description="How early, by chance and load cost, values are refreshed; 0 (never) to 100.",
    )
    ttl_jitter: float = Field(
        default=_CACHE.ttl_jitter, description="Share by which loaders' TTLs vary; 0 to 0.5."
    )
    cache_connect_timeout: float = Field(
        default=_CACHE.connect_timeout,
        description="Seconds to open a connection to the cache; 0.001 to 3600.",
    )
    cache_timeout: float = Field(
        default=_CACHE.timeout, description="Seconds to wait for the cache's reply; 0.001 to 3600."
    )
    cache_max_connections: int = Field(
        default=_CACHE.max_connections, description="Connections of one process to the cache; 1 or more."
    )
    cache_breaker_failures: int = Field(
        default=_CACHE.breaker_failures,
        description="Failures in a row after which the cache is left alone for a while; 1 or more.",
    )
    cache_breaker_reset: float = Field(
        default=_CACHE.breaker_reset, description="Seconds until it is tried again; 0.001 to 3600."
    )
    boot_fence: Literal["run_id", "off"] = Field(
        default=_CACHE.boot_fence,
        description="'run_id': a restarted server begins cold. 'off': it is trusted.",
    )
    compress_above: int | None = Field(
        default=_CACHE.compress_above,
        description="Bytes above which values are compressed; 0 or more, none: never.",
    )
    max_value_bytes: int = Field(
        default=_CACHE.max_value_bytes, description="Bytes of the largest value; 1024 or more."
    )
    high_watermark: float = Field(
        default=_CACHE.high_watermark, description="Share of memory above which eviction begins; 0.01 to 1."
    )
    low_watermark: float = Field(
        default=_CACHE.low_watermark,
        description="Share of memory down to which eviction goes; below high_watermark.",
    )
    near_size: int = Field(
        default=_CACHE.near_size,
        description="Entries that a process keeps copies of; 0 or more, 0: no near cache.",
    )
    near_bytes: int = Field(
        default=_CACHE.near_bytes, description="Estimated bytes of these copies; 1024 or more."
    )
    near_bound: float = Field(
        default=_CACHE.near_bound,
        description="Seconds by which a copy may lag, and that a barrier waits; 0.01 to 10.",
    )
    near_all: bool = Field(
        default=_CACHE.near_all,
        description="Whether all keys are copied, or only those of loaders with near=True.",
    )

    num_shards: int | None = Field(
        default=None,
        ge=1,
        le=MOST_SHARDS,
        description="Shards that keys are spread over; 1 to 1024, none: what the namespace has, see docs/cluster.md.",
    )
    shard_key_func: str | None = Field(
        default=None,
        pattern=r"^[\w.]+:\w+$",
        description="Function that places keys, as module:name; none: they are hashed.",
    )
    shard_pins: dict[str, int] | None = Field(
        default=None,
        description='Tenants that live in one shard each, such as {"acme": 3}; none: those of the namespace.',
    )

    broker_url: str | None = Field(
        default=None,
        repr=False,
        description="The broker's redis://, rediss:// or redis+sentinel:// URL; not the cache's server.",
    )
    state_url: str | None = Field(
        default=None, repr=False, description="Where jobs are kept; none: the broker's server."
    )
    loaders: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Modules that register loaders, imported by workers: a comma list or JSON."
    )
    warm_plans: Annotated[tuple[WarmPlan, ...], NoDecode, BeforeValidator(parse_plans)] = Field(
        default=(), description="Sets of keys that workers warm by the clock, as JSON; see docs/warming.md."
    )
    scheduled_invalidations: Annotated[
        tuple[ScheduledInvalidation, ...], NoDecode, BeforeValidator(parse_invalidations)
    ] = Field(default=(), description="What is invalidated by the clock, as JSON; see docs/operations.md.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Least severity that is logged: DEBUG, INFO, WARNING or ERROR."
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="How log lines are written: text or json."
    )
    secrets_dir: Path = Field(
        default=names.SECRETS_DIR,
        description="Directory with one file a secret, such as stoker_flower__password.",
    )

    worker: WorkerSettings = WorkerSettings()
    job: JobSettings = JobSettings()
    event: EventSettings = EventSettings()
    beat: BeatSettings = BeatSettings()
    rebalance: RebalanceSettings = RebalanceSettings()
    hot: HotSettings = HotSettings()
    flower: FlowerSettings = FlowerSettings()
    metrics: MetricsSettings = MetricsSettings()

    def __init__(self, **values: Any) -> None:
        wrong = [*names.unknown(leaf_names()), *names.unknown_arguments(values, type(self).model_fields)]
        told = {problem.field for problem in wrong}
        try:
            super().__init__(**values)
        except ValidationError as error:
            wrong += (problem for problem in problems.from_validation(error) if problem.field not in told)
        except SettingsError as error:
            wrong.append(problems.from_source(error))
        except (OSError, UnicodeDecodeError) as error:
            wrong.append(problems.from_files(error))
        if wrong:
            raise InvalidSettings(tuple(wrong))

    @field_validator("loaders", mode="before")
    @classmethod
    def _split_loaders(cls, value: object) -> object:
        return problems.split_list(value) if isinstance(value, str) else value

    @field_validator("broker_url", "state_url")
    @classmethod
    def _check_urls(cls, value: str | None) -> str | None:
        if value is not None:
            problems.check_server_url(value)
        return value

    @model_validator(mode="after")
    def _check_cache(self) -> Self:
        try:
            self.cache_config()
        except ConfigError as error:
            setting = next(ours for ours, theirs in _CACHE_FIELDS.items() if theirs == error.field)
            raise ConfigError(setting, error.value, error.remedy) from None
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic-settings passes it by name
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        secrets = NestedSecretsSettingsSource(
            file_secret_settings, secrets_dir=names.secrets_dir(), secrets_dir_missing="ok"
        )
        return init_settings, env_settings, dotenv_settings, secrets

    def cache_config(self) -> CacheConfig:
        """The cache's own settings: the redis backend if there is a `cache_url`, else the memory backend."""
        values = {theirs: getattr(self, ours) for ours, theirs in _CACHE_FIELDS.items()}
        return CacheConfig(backend="redis" if self.cache_url else "memory", **values)

    def broker(self) -> str:
        """The broker's URL.

        Raises:
            ConfigError: None was set.
        """
        if self.broker_url is None:
            raise ConfigError(
                "STOKER_BROKER_URL", None, "give the broker's URL, such as redis://localhost:6380/0"
            )
        return self.broker_url

    def state(self) -> str:
        """The URL of the server that holds the jobs: `state_url`, or else the broker's."""
        return self.state_url or self.broker()


def leaf_names() -> Iterator[str]:
    """The name of every variable, and of every group (which may be given whole, as JSON)."""
    for name, field in Settings.model_fields.items():
        yield names.variable(name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from (names.variable(name, member) for member in field.annotation.model_fields)
