"""What the settings are and where each came from, for `stoker config`. Secrets and passwords are masked."""

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel

from stoker.config import names, problems
from stoker.config.settings import Settings


@dataclass(frozen=True, slots=True)
class Effective:
    """One setting as it is in force.

    Attributes:
        name: The environment variable.
        value: The value, masked where it is secret.
        source: `environment`, `.env`, `secrets`, `default`, or `argument` when the program itself gave it.
        description: What it means, with its unit and bounds.
    """

    name: str
    value: object
    source: str
    description: str


def effective(settings: Settings) -> list[Effective]:
    """Every setting, in the order of definition. Sources are looked at now, not when `settings` was made."""
    found = names.sources()
    return [
        Effective(
            name=names.variable(*path),
            value=problems.shown(path[-1], getattr(group, path[-1])),
            source=_source(path, path[-1] in group.model_fields_set, found),
            description=type(group).model_fields[path[-1]].description or "",
        )
        for path, group in _leaves(settings)
    ]


def _leaves(settings: Settings) -> Iterator[tuple[tuple[str, ...], BaseModel]]:
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            yield from (((name, member), value) for member in type(value).model_fields)
        else:
            yield (name,), settings


def _source(path: tuple[str, ...], was_set: bool, found: dict[str, dict[str, str | None]]) -> str:
    if not was_set:
        return "default"
    spellings = (names.variable(*path), names.variable(path[0]))
    return next((source for source, ours in found.items() if any(s in ours for s in spellings)), "argument")
