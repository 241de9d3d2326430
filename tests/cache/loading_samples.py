"""Types and functions that the tests of templates, loaders and registry share."""

from collections.abc import Callable
from enum import Enum, IntEnum, StrEnum, auto
from typing import Any, NewType

import pytest

from stoker.cache.loaders import Loader, LoadKey
from stoker.cache.templates import Template, field_type

UserId = NewType("UserId", int)


class Status(StrEnum):
    ACTIVE = auto()
    GONE = auto()


class Level(Enum):
    LOW = 1
    HIGH = 2


class Priority(IntEnum):
    LOW = 1


class Pair(Enum):
    ONE = (1, 2)


class Odd(Enum):
    TEXT = "1"
    NUMBER = 1


class Bytes:
    """A type that has only the default repr."""


def a_loader(template: str, function: Callable[..., Any], **settings: Any) -> Loader:
    return Loader(template, function, **settings)


def load_user(user_id: int) -> dict[str, int]:
    return {"id": user_id}


def load_report(year: int, month: int = 1, *, tenant_id: str | None) -> str:
    return f"{tenant_id}: {year}-{month}"


def load_popular(keys: list[LoadKey]) -> dict[str, object]:
    return {key.key: key.args["name"] for key in keys if key.args["name"] != "unknown"}


def typed(template: str, **annotations: Any) -> Template:
    def type_of(name: str) -> Any:
        return field_type(annotations[name]) or pytest.fail(f"{annotations[name]} is no type of a field")

    return Template(template, type_of)
