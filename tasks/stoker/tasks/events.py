"""What an event is: the shape that is published, and what a rule is given.

How one is published is `publish`'s business, what follows from it `rules`' and `actions`'.
"""

import json
import re
import time
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self
from uuid import uuid4

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticSerializationError

from stoker.tasks.errors import InvalidArguments
from stoker.tasks.names import Tenant, problems_of

COLD = "cache.cold"
NODES = "nodes.changed"
"""The cache, or a shard of it, has begun a new life: what was stored before is a miss."""
MOST_BYTES = 65_536
"""Of a payload as JSON. An event says what happened; data belong into the database."""
MOST_NESTED = 100
"""Levels of lists and objects in a payload. Readers of JSON give up at some depth, each at another one."""
MOST_NAME = 128
_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", re.ASCII)
_MARKED = {"__type__", "__value__"}
"""How kombu writes what JSON has no notation for; an object of these keys would arrive as something else."""
_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}", re.ASCII)


def check_name(name: str) -> str:
    """The name, or ValueError unless it can be an event's."""
    if len(name) > MOST_NAME or not _NAME.fullmatch(name):
        raise ValueError(
            "must be words of A-Z a-z 0-9 _ and - with dots between, such as user.updated, "
            f"of {MOST_NAME} characters at most"
        )
    return name


def is_id(value: object) -> bool:
    """Whether it can be an event's id."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def is_nested_too_deeply(value: Any, most: int) -> bool:
    """Whether there are more than `most` levels of lists and mappings in it."""
    return any(depth > most for depth, _ in enumerate(_levels(value), 1))


def _check_id(event_id: str) -> str:
    if not is_id(event_id):
        raise ValueError("must be 1 to 128 of A-Z a-z 0-9 _ . and -")
    return event_id


class Event(BaseModel):
    """Something that happened. `event["id"]` is the payload's field `id`, `event.id` the event's own.

    Attributes:
        id: Events of one id are one event, however often they are published.
        name: Dotted words, such as `user.updated`.
        at: When it was published, by the publisher's clock; Unix time in seconds.
        tenant_id: Whose it is; None: nobody's in particular.
        payload: What the publisher says of it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    version: Literal[1] = 1
    id: Annotated[str, AfterValidator(_check_id)]
    name: Annotated[str, AfterValidator(check_name)]
    at: float = Field(ge=0)
    tenant_id: Tenant = None
    payload: dict[str, Any]

    @model_validator(mode="after")
    def _can_be_carried(self) -> Self:
        if is_nested_too_deeply(self.payload, MOST_NESTED):
            raise ValueError(f"the payload is nested more than {MOST_NESTED} levels deep; flatten it")
        inner = (one for level in _levels(self.payload) for one in level)
        if any(isinstance(one, dict) and one.keys() == _MARKED for one in inner):
            raise ValueError(
                "the payload holds an object of just the keys __type__ and __value__, "
                "which the queue would read as something else; rename one"
            )
        try:
            size = len(_json(self.payload))
            json.dumps(self.payload, ensure_ascii=False).encode()  # escaped, half a surrogate pair would pass
        except (TypeError, ValueError) as error:
            raise ValueError(f"the payload is no JSON ({error})") from None
        if size > MOST_BYTES:
            raise ValueError(
                f"the payload is {size:,} bytes of JSON; at most {MOST_BYTES:,}: name what changed, not all it holds"
            )
        return self

    def __getitem__(self, field: str) -> Any:
        return self.payload[field]

    def __contains__(self, field: object) -> bool:
        return field in self.payload

    def get(self, field: str, default: Any = None) -> Any:
        """A field of the payload, or `default`."""
        return self.payload.get(field, default)


def make(name: str, payload: Mapping[str, Any], tenant_id: str | None, event_id: str | None) -> Event:
    """A new event.

    Raises:
        InvalidArguments: Something of it cannot be used; the text says what and why.
    """
    if not isinstance(payload, Mapping):
        raise InvalidArguments(_about(name), f"payload={payload!r:.80}: give a mapping, such as {{'id': 7}}")
    try:
        plain = json.loads(_json(dict(payload)))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArguments(_about(name), f"payload: it is no JSON ({error})") from None
    fields = {"name": name, "payload": plain, "tenant_id": tenant_id, "at": time.time()}
    return parse({**fields, "id": str(uuid4()) if event_id is None else event_id})


def parse(found: Mapping[str, Any]) -> Event:
    """An event from its fields.

    Raises:
        InvalidArguments: They are none, or of a version that this one does not know.
    """
    try:
        event = Event.model_validate(found)
        event.model_dump_json()  # it will be written down
    except ValidationError as error:
        raise InvalidArguments(_about(found.get("name")), problems_of(error)) from None
    except (PydanticSerializationError, RecursionError) as error:
        raise InvalidArguments(_about(found.get("name")), f"payload: it is no JSON ({error})") from None
    return event


def _about(name: object) -> str:
    return f"event {name}" if isinstance(name, str) and _NAME.fullmatch(name) else "event"


def _levels(value: Any) -> Iterator[list[Any]]:
    """The lists and mappings in it, the outermost first; those that lie equally deep at once. Calls nothing in itself,
    so it comes to an end with everything that JSON can say."""
    level = [value]
    while level := [one for one in level if isinstance(one, dict | list)]:
        yield level
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]


def _json(payload: dict[str, Any]) -> str:
    return json.dumps(payload, allow_nan=False, separators=(",", ":"))
