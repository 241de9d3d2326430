"""The names on the wire: tasks, queues, and the arguments of each task. Producers and workers share this file.

Arguments are keyword arguments, checked by these models before a task is sent and again before it runs. Each carries
the version of its shape, so that a worker refuses what it does not understand instead of guessing.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from stoker.cache import CacheError
from stoker.cache.patterns import classify
from stoker.cache.tenancy import check_key, check_tags, tenant_field
from stoker.tasks.errors import InvalidArguments

INVALIDATE = "stoker.invalidate"
SWEEP = "stoker.sweep"
WARM = "stoker.warm"
EVICT = "stoker.evict"
REAP = "stoker.reap"

QUEUE_OF = {
    INVALIDATE: "invalidate",  # never behind warming
    WARM: "warm",
    SWEEP: "maintenance",
    EVICT: "maintenance",
    REAP: "maintenance",
}
QUEUES = tuple(dict.fromkeys(QUEUE_OF.values()))

MAX_WARM_KEYS = 100_000
MAX_INVALIDATE_KEYS = 10_000


def queue(namespace: str, name: str) -> str:
    """The queue's name on the broker. Caches that share a broker under other namespaces share no queue."""
    return f"{namespace}.{name}"


def kind(task: str) -> str:
    """A job's kind is its task's verb."""
    return task.removeprefix("stoker.")


def _tenant(value: Any) -> Any:
    tenant_field(value)
    return value


def _key(value: Any) -> Any:
    return check_key(value)


def _pattern(value: Any) -> Any:
    if value is not None:
        classify(value)
    return value


Tenant = Annotated[str | None, BeforeValidator(_tenant)]
Key = Annotated[str, BeforeValidator(_key)]
Pattern = Annotated[str | None, BeforeValidator(_pattern)]


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


class Invalidate(Arguments):
    """Keys, tags, a pattern or a whole tenant: all that are given."""

    tenant_id: Tenant = None
    keys: list[Key] = Field(default=[], max_length=MAX_INVALIDATE_KEYS)
    tags: list[str] = []
    pattern: Pattern = None
    whole_tenant: bool = False

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
    """Keys of one tenant as a list, or `{tenant: keys}`."""

    keys: Annotated[
        Annotated[list[Key], Tag("list")]
        | Annotated[dict[Annotated[str, BeforeValidator(_tenant)], list[Key]], Tag("by_tenant")],
        Discriminator(lambda keys: "by_tenant" if isinstance(keys, dict) else "list"),
    ]
    tenant_id: Tenant = None

    @model_validator(mode="after")
    def _some_but_not_too_many(self) -> Self:
        if isinstance(self.keys, dict) and self.tenant_id is not None:
            raise ValueError("tenant_id: leave it out when keys are given by tenant")
        count = len(self.keys) if isinstance(self.keys, list) else sum(map(len, self.keys.values()))
        if not 0 < count <= MAX_WARM_KEYS:
            raise ValueError(
                f"keys: give 1 to {MAX_WARM_KEYS:,} keys a job, not {count:,}; send several jobs"
            )
        return self


class Evict(Arguments):
    """`target_bytes`: go down to this; None: to the low watermark."""

    target_bytes: int | None = Field(default=None, ge=0)

    def target(self) -> dict[str, Any]:
        return {}


class Reap(Arguments):
    """Takes nothing."""


MODEL_OF: dict[str, type[Arguments]] = {
    INVALIDATE: Invalidate,
    SWEEP: Sweep,
    WARM: Warm,
    EVICT: Evict,
    REAP: Reap,
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
    try:
        return MODEL_OF[task].model_validate(arguments)
    except ValidationError as error:
        raise InvalidArguments(task, "; ".join(_problem(found) for found in error.errors())) from None


def _problem(found: Any) -> str:
    refusal = found.get("ctx", {}).get("error")
    if isinstance(refusal, CacheError):  # names the field and shows the value by itself
        return str(refusal)
    field = ".".join(str(part) for part in found["loc"])
    text = found["msg"].removeprefix("Value error, ")
    shown = repr(found["input"])
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return f"{field}={shown}: {text}" if field else text
