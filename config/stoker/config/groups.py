"""The groups of settings: workers, jobs, events, beat, and so on. Names: `STOKER_<GROUP>__<NAME>`.

Durations are seconds.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from stoker.cache import ConfigError

Every = Annotated[float, Field(ge=0.1, le=86_400)]


class Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class WorkerSettings(Group):
    """`STOKER_WORKER__*`: how workers take and give back messages."""

    concurrency: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Processes that run tasks in one worker; none: one for each CPU.",
    )
    visibility_timeout: int = Field(
        default=20,
        ge=1,
        le=86_400,
        description="Seconds until a message of a worker that died is given to another; live ones renew it.",
    )
    restore_every: int = Field(
        default=1, ge=1, le=3600, description="Seconds between two looks for messages of workers that died."
    )
    shutdown_timeout: float = Field(
        default=20,
        ge=0,
        le=3600,
        description="Seconds that running tasks get to end when a worker is asked to stop.",
    )


class JobSettings(Group):
    """`STOKER_JOB__*`: how jobs are run, resumed and remembered."""

    lock_ttl: float = Field(
        default=15,
        ge=0.5,
        le=3600,
        description="Seconds after which the job of a coordinator that died can be taken over.",
    )
    ttl: float = Field(
        default=86_400,
        ge=60,
        le=2_592_000,
        description="Seconds an unfinished job is kept after its last sign.",
    )
    keep: float = Field(
        default=3600, ge=10, le=2_592_000, description="Seconds a finished job and its report are kept."
    )
    soft_time_limit: float = Field(
        default=300,
        ge=1,
        le=86_400,
        description="Seconds after which a job goes on in a new task, from where it is.",
    )
    time_limit: float = Field(
        default=360,
        ge=2,
        le=86_400,
        description="Seconds after which a task is killed; above the soft limit.",
    )
    batch: int = Field(
        default=500,
        ge=1,
        le=10_000,
        description="Keys handled between two looks at abort and progress; a sweep may pass by more.",
    )
    lanes: int = Field(
        default=4, ge=1, le=64, description="Batches that one process warms at once, each in its thread."
    )
    helpers: int = Field(
        default=3, ge=0, le=1000, description="Processes that a large warm asks to help the one that runs it."
    )
    warm_under_pressure: bool = Field(
        default=False,
        description="Whether warm plans go on under memory pressure; else they wait until it is over.",
    )
    sweep_delay: float = Field(
        default=2,
        ge=0,
        le=3600,
        description="Seconds from an invalidation to its sweep, so that many share one sweep.",
    )

    @model_validator(mode="after")
    def _soft_before_hard(self) -> Self:
        if self.time_limit <= self.soft_time_limit:
            remedy = f"must be above soft_time_limit ({self.soft_time_limit:g}): a job hands over in between"
            raise ConfigError("time_limit", self.time_limit, remedy)
        return self


class EventSettings(Group):
    """`STOKER_EVENT__*`: how domain events are handled by the rules of `on_event`."""

    tries: int = Field(
        default=5, ge=1, le=20, description="Runs of a rule that fails until its event is a dead letter."
    )
    backoff: float = Field(
        default=1,
        ge=0.1,
        le=300,
        description="Seconds before the second run; each wait is twice the one before.",
    )
    time_limit: float = Field(
        default=30,
        ge=1,
        le=3600,
        description="Seconds after which the run of a rule is stopped, and has failed.",
    )
    keep: float = Field(
        default=3600,
        ge=60,
        le=2_592_000,
        description="Seconds for which an event that was handled is known, so that a second copy does nothing.",
    )


class HotSettings(Group):
    """`STOKER_HOT__*`: what is learned of the keys that are read most."""

    half_life: float = Field(
        default=600, ge=10, le=604_800, description="Seconds after which a read counts half as much."
    )
    keys: int = Field(
        default=50_000,
        ge=100,
        le=1_000_000,
        description="Keys whose reads are counted, of all tenants together; the hottest tenth is known well.",
    )
    tenants: int = Field(
        default=100, ge=1, le=1000, description="Tenants whose keys are counted; those that are read most."
    )
    snapshot_every: float = Field(
        default=60, ge=1, le=86_400, description="Seconds between two snapshots of the hottest keys."
    )
    replay: int = Field(
        default=10_000,
        ge=0,
        le=10_000,
        description="Keys of a snapshot, which are warmed after a cold start; 0: none are.",
    )


class BeatSettings(Group):
    """`STOKER_BEAT__*`: what runs by the clock."""

    reap_every: Every = Field(
        default=10, description="Seconds between two looks for orphaned jobs, which are sent again."
    )
    tick_every: Every = Field(default=5, description="Seconds between two looks for warm plans that are due.")
    watch_every: Every | None = Field(
        default=5,
        description="Seconds between two looks for cache.cold, cache.pressure and nodes.changed; none: no such looks.",
    )
    sweep_every: Every | None = Field(
        default=60, description="Seconds between two scheduled sweeps; none: no such sweeps."
    )
    evict_every: Every | None = Field(
        default=30, description="Seconds between two looks at memory; none: no such looks."
    )
    hot_every: Every | None = Field(
        default=10,
        description="Seconds between two looks at which keys are read; none: hot keys are not learned.",
    )
    rebalance_every: Every | None = Field(
        default=3600,
        description="Seconds between two looks at the shares of a cluster's nodes; none: no such looks.",
    )


class RebalanceSettings(Group):
    """`STOKER_REBALANCE__*`: what follows by itself when the nodes of a cluster do not have their shares."""

    by: Literal["keys", "bytes", "load"] = Field(
        default="keys", description="What a node is to have its share of: keys, bytes or load."
    )
    act: bool = Field(
        default=False,
        description="Whether beat and nodes.changed move slots; else they only plan, and `stoker rebalance` moves.",
    )


class MetricsSettings(Group):
    """`STOKER_METRICS__*`: where Prometheus finds the fleet's metrics."""

    host: str = Field(
        default="127.0.0.1", min_length=1, description="Address that `stoker metrics` listens on."
    )
    port: int = Field(
        default=9818, ge=0, le=65_535, description="Port that `stoker metrics` listens on; 0: any free one."
    )


class FlowerSettings(Group):
    """`STOKER_FLOWER__*`: the web page that shows workers and jobs."""

    host: str = Field(default="127.0.0.1", min_length=1, description="Address that Flower listens on.")
    port: int = Field(
        default=5555, ge=0, le=65_535, description="Port that Flower listens on; 0: any free one."
    )
    user: str = Field(
        default="stoker", pattern=r"^[^:\s]+$", description="Name to log in with; without ':' or blanks."
    )
    password: SecretStr | None = Field(
        default=None, min_length=1, description="Password to log in with; required to start Flower."
    )
    read_only: bool = Field(
        default=True, description="Whether Flower only shows; false lets it revoke and control."
    )
    max_tasks: int = Field(default=5000, ge=100, le=1_000_000, description="Tasks that Flower remembers.")
