"""The names on the wire: tasks, queues, and the arguments of each task. Producers and workers share this file.

Arguments are keyword arguments, checked by these models before a task is sent and again before it runs. Each carries
the version of its shape, so that a worker refuses what it does not understand instead of guessing.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeGuard, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from stoker.cache import CacheError
from stoker.cache.patterns import classify
from stoker.cache.shards import MOST_SHARDS
from stoker.cache.tenancy import check_key, check_tags, tenant_field
from stoker.config.warm_plans import check_plan_name
from stoker.tasks.errors import InvalidArguments

INVALIDATE = "stoker.invalidate"
SWEEP = "stoker.sweep"
WARM = "stoker.warm"
WARM_BATCH = "stoker.warm_batch"
EVICT = "stoker.evict"
RESHARD = "stoker.reshard"
REFRESH = "stoker.refresh"
REAP = "stoker.reap"
TICK = "stoker.tick"
HOT = "stoker.hot"
REACT = "stoker.react"
WATCH = "stoker.watch"
REBALANCE = "stoker.rebalance"

QUEUE_OF = {
    INVALIDATE: "invalidate",  # never behind warming
    REACT: "events",  # rules are the app's code, and may be slow
    REFRESH: "refresh",
    WARM: "warm",
    WARM_BATCH: "warm",
    SWEEP: "maintenance",
    EVICT: "maintenance",
    RESHARD: "maintenance",
    REAP: "maintenance",
    TICK: "maintenance",
    HOT: "maintenance",
    WATCH: "maintenance",
    REBALANCE: "maintenance",
}
QUEUES = tuple(dict.fromkeys(QUEUE_OF.values()))

MAX_JOB_ID = 255
MAX_WARM_KEYS = 100_000
MAX_INVALIDATE_KEYS = 10_000
MOST_BYTES = 2**63 - 1
MOST_NODES = 1000
_MOST_PROBLEMS = 5
_MOST_SHOWN = 80


def queue(namespace: str, name: str) -> str:
    """The queue's name on the broker. Caches that share a broker under other namespaces share no queue."""
    return f"{namespace}.{name}"


def kind(task: str) -> str:
    """A job's kind is its task's verb."""
    return task.removeprefix("stoker.")


def is_kind(kind: str) -> bool:
    """Whether jobs of this kind can be run."""
    return f"stoker.{kind}" in QUEUE_OF


def _tenant(value: Any) -> Any:
    if isinstance(value, str):  # what is not is refused by the model
        tenant_field(value)
    return value


def _key(value: Any) -> Any:
    return check_key(value)


def _pattern(value: Any) -> Any:
    if value is not None:
        classify(value)
    return value


JobId = Annotated[str, Field(min_length=1, max_length=MAX_JOB_ID)]
_job_id: TypeAdapter[str] = TypeAdapter(JobId)
Tenant = Annotated[str | None, BeforeValidator(_tenant)]
Key = Annotated[str, BeforeValidator(_key)]
Pattern = Annotated[str | None, BeforeValidator(_pattern)]
PlanName = Annotated[str, AfterValidator(check_plan_name)]
By = Literal["keys", "bytes", "load"]
NodeName = Annotated[str, Field(min_length=1, max_length=300)]
Weight = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]


M = TypeVar("M", bound="Arguments")


class Arguments(BaseModel):
    """What every task takes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    version: Literal[1] = 1

    def target(self) -> dict[str, Any] | None:
        """What the job is about: requests of one target are one job. None: each request is its own job."""
        return self.model_dump(exclude={"version"})

    def wants_another_pass(self) -> bool:
        """Whether a running job that this request joins shall do its work once more."""
        return False


class Continued(Arguments):
    """A message without arguments: those in the job's record are meant."""

    job_id: JobId


class Invalidate(Arguments):
    """Keys, tags, a pattern or a whole tenant: all that are given.

    `rewarm`: of the hot keys among them at most so many are warmed again, hottest first.
    """

    tenant_id: Tenant = None
    keys: list[Key] = Field(default=[], max_length=MAX_INVALIDATE_KEYS)
    tags: list[str] = []
    pattern: Pattern = None
    whole_tenant: bool = False
    rewarm: int = Field(default=0, ge=0, le=MAX_WARM_KEYS)

    @model_validator(mode="after")
    def _names_something(self) -> Self:
        check_tags(self.tags)
        if not (self.keys or self.tags or self.pattern is not None or self.whole_tenant):
            raise ValueError("name what to invalidate: keys, tags, a pattern or a tenant")
        if self.whole_tenant and self.tenant_id is None:
            raise ValueError("tenant_id: name the tenant; the shared key space is invalidated by pattern '*'")
        return self

    def target(self) -> None:
        return None  # each writes its own ban


class Sweep(Arguments):
    """`again`: if a sweep is running, whether it shall make another pass for this request."""

    again: bool = True

    def target(self) -> dict[str, Any]:
        return {}

    def wants_another_pass(self) -> bool:
        return self.again


class Warm(Arguments):
    """Keys of one tenant as a list, or `{tenant: keys}`, or a warm plan by its name.

    `cause`: what it follows, such as an event; it is one job only with requests of the same cause.
    """

    keys: (
        Annotated[
            Annotated[list[Key], Tag("list")]
            | Annotated[dict[Annotated[str, BeforeValidator(_tenant)], list[Key]], Tag("by_tenant")],
            Discriminator(lambda keys: "by_tenant" if isinstance(keys, dict) else "list"),
        ]
        | None
    ) = None
    tenant_id: Tenant = None
    plan: PlanName | None = None
    cause: JobId | None = None

    @model_validator(mode="after")
    def _some_but_not_too_many(self) -> Self:
        if self.plan is not None or self.keys is None:
            if self.plan is None or self.keys is not None or self.tenant_id is not None:
                raise ValueError("give keys, or a plan and nothing else")
            return self
        if isinstance(self.keys, dict) and self.tenant_id is not None:
            raise ValueError("tenant_id: leave it out when keys are given by tenant")
        count = len(self.keys) if isinstance(self.keys, list) else sum(map(len, self.keys.values()))
        if not 0 < count <= MAX_WARM_KEYS:
            raise ValueError(
                f"keys: give 1 to {MAX_WARM_KEYS:,} keys a job, not {count:,}; send several jobs"
            )
        return self

    def target(self) -> dict[str, Any]:
        return self.model_dump(exclude={"version"}, exclude_none=True)


class WarmBatch(Arguments):
    """The job to help with."""

    job: JobId


class Evict(Arguments):
    """`target_bytes`: go down to this; None: to the low watermark."""

    target_bytes: int | None = Field(default=None, ge=0, le=MOST_BYTES)

    def target(self) -> dict[str, Any]:
        return {}


class Reshard(Arguments):
    """What is to be different, see `stoker.cache.reshard.Change`."""

    num_shards: int | None = Field(default=None, ge=1, le=MOST_SHARDS)
    pin: dict[Annotated[str, BeforeValidator(_tenant)], Annotated[int, Field(ge=0, lt=MOST_SHARDS)]] = {}
    unpin: list[Annotated[str, BeforeValidator(_tenant)]] = []
    function: bool = False

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if self.num_shards is None and not (self.pin or self.unpin or self.function):
            raise ValueError("name what is to change: num_shards, pin, unpin or function")
        if both := sorted(self.pin.keys() & set(self.unpin)):
            raise ValueError(f"tenant {both[0]!r} is to be pinned and unpinned: give one of the two")
        return self


class Refresh(Arguments):
    """One key."""

    key: Key
    tenant_id: Tenant = None


class Reap(Arguments):
    """Takes nothing."""


class Tick(Arguments):
    """Takes nothing."""


class Hot(Arguments):
    """Takes nothing."""


class React(Arguments):
    """An event as it was published, for one rule or for whichever match; `waits`: how often it was put off."""

    event: dict[str, Any]
    rule: str | None = Field(default=None, min_length=1, max_length=500)
    waits: int = Field(default=0, ge=0)


class Watch(Arguments):
    """Takes nothing."""


class Rebalance(Arguments):
    """`by`: what counts. `weights`: of nodes, by address or id. `act`: move slots; else only say which would move."""

    by: By = "keys"
    weights: dict[NodeName, Weight] = Field(default={}, max_length=MOST_NODES)
    act: bool = True

    def target(self) -> dict[str, Any]:
        return {"act": self.act}


MODEL_OF: dict[str, type[Arguments]] = {
    INVALIDATE: Invalidate,
    SWEEP: Sweep,
    WARM: Warm,
    WARM_BATCH: WarmBatch,
    EVICT: Evict,
    RESHARD: Reshard,
    REFRESH: Refresh,
    REAP: Reap,
    TICK: Tick,
    HOT: Hot,
    REACT: React,
    WATCH: Watch,
    REBALANCE: Rebalance,
}


def message(job_id: str, arguments: Arguments | None = None) -> dict[str, Any]:
    """What is sent: the job's id, and its arguments unless the task takes them from the job."""
    fields = arguments.model_dump(exclude_defaults=True) if arguments else {}
    return {**fields, "version": 1, "job_id": job_id}


def check(task: str, arguments: Mapping[str, Any]) -> Arguments:
    """The arguments as their model.

    Raises:
        InvalidArguments: They do not fit it; the text names each field, its value and the remedy.
    """
    return _checked(task, MODEL_OF[task], arguments)


def is_job_id(found: object) -> TypeGuard[str]:
    """Whether this can name a job."""
    try:
        _job_id.validate_python(found, strict=True)
    except ValidationError:
        return False
    return True


def accept(task: str, message: Mapping[str, Any]) -> tuple[str | None, Arguments | None]:
    """The job's id and the arguments in a message; either may be missing, but not both.

    Raises:
        InvalidArguments: As `check`.
    """
    if "job_id" not in message:
        return None, check(task, message)
    if not message.keys() - {"job_id", "version"}:
        return _checked(task, Continued, message).job_id, None
    rest = {name: value for name, value in message.items() if name != "job_id"}
    return _checked(task, Continued, {"job_id": message["job_id"]}).job_id, check(task, rest)


def _checked(task: str, model: type[M], given: Mapping[str, Any]) -> M:
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise InvalidArguments(task, problems_of(error)) from None


def problems_of(error: ValidationError) -> str:
    """What pydantic found, in one line: each field with its value and the remedy."""
    problems = [_problem(found) for found in error.errors()[:_MOST_PROBLEMS]]
    more = error.error_count() - len(problems)
    return "; ".join(problems) + (f"; and {more} more" if more else "")


def _problem(found: Any) -> str:
    refusal = found.get("ctx", {}).get("error")
    if isinstance(refusal, CacheError):  # names the field and shows the value by itself
        return str(refusal)
    field = _short(repr(".".join(str(part) for part in found["loc"]))[1:-1])
    text = found["msg"].removeprefix("Value error, ")
    return f"{field}={shown(found['input'])}: {text}" if field else text


def shown(value: Any) -> str:
    """A value as an error shows it: short, and printable whatever it is."""
    try:
        return _short(repr(value))
    except (ValueError, RecursionError):  # an int of thousands of digits has no repr
        return f"({type(value).__name__})"


def _short(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 3] + "..."
