"""Invalidations by the clock, as settings write them: what becomes worthless at a known time.

    [{"name": "prices", "pattern": "price:*", "tenant_id": "acme", "cron": "0 6 * * *"},
     {"name": "news", "tags": ["news"], "every": "10m"}]

Beat sends them; see `stoker.tasks.schedule`.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from stoker.cache import CacheError
from stoker.cache.patterns import classify
from stoker.cache.tenancy import check_key, check_tags, tenant_field
from stoker.config.timing import Clock
from stoker.config.warm_plans import check_plan_name, told

MOST_INVALIDATIONS = 1000
_EXAMPLE = '[{"name": "prices", "pattern": "price:*", "cron": "0 6 * * *"}]'
_MOST_KEYS = 10_000


def _check_name(name: object) -> object:
    try:
        return check_plan_name(name)
    except ValueError:
        raise ValueError("a name is 1 to 64 of A-Z a-z 0-9 _ . and -") from None


def _check_tenant(tenant: Any) -> Any:
    tenant_field(tenant)
    return tenant


def _check_pattern(pattern: str | None) -> str | None:
    if pattern is not None:
        classify(pattern)
    return pattern


class ScheduledInvalidation(Clock):
    """Keys, tags, a pattern or a whole tenant, all that are given, and when: `every` or `cron`.

    Attributes:
        name: Of its entry in the schedule.
        tenant_id: Whose entries; None: those of the shared key space.
    """

    name: Annotated[str, BeforeValidator(_check_name)]
    tenant_id: Annotated[str | None, BeforeValidator(_check_tenant)] = None
    keys: tuple[Annotated[str, BeforeValidator(check_key)], ...] = Field(default=(), max_length=_MOST_KEYS)
    tags: Annotated[tuple[str, ...], AfterValidator(check_tags)] = ()
    pattern: Annotated[str | None, AfterValidator(_check_pattern)] = None
    whole_tenant: bool = Field(default=False, strict=True)

    @model_validator(mode="after")
    def _says_what_and_when(self) -> Self:
        if not (self.keys or self.tags or self.pattern is not None or self.whole_tenant):
            raise ValueError("name what to invalidate: keys, tags, a pattern or whole_tenant")
        if self.whole_tenant and self.tenant_id is None:
            raise ValueError("name the tenant_id; the shared key space is invalidated by the pattern '*'")
        if self.every is None and self.cron is None:
            raise ValueError("give every or cron")
        return self

    def arguments(self) -> dict[str, Any]:
        """What it is about, as `stoker.invalidate` takes it."""
        clock = {"name", *Clock.model_fields}
        return self.model_dump(mode="json", exclude_defaults=True, exclude=clock)


def parse_invalidations(value: object) -> tuple[ScheduledInvalidation, ...]:
    """Invalidations with their names, as a list or as its JSON.

    Raises:
        ValueError: They cannot be used; the text names which, the field and the remedy.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"is no valid JSON list ({error}), such as {_EXAMPLE}") from None
    if isinstance(value, tuple) and all(isinstance(found, ScheduledInvalidation) for found in value):
        return value
    if not isinstance(value, list) or not all(isinstance(found, Mapping) for found in value):
        raise ValueError(f"must be a list of objects, such as {_EXAMPLE}")
    if len(value) > MOST_INVALIDATIONS:
        raise ValueError(f"lists {len(value):,}; at most {MOST_INVALIDATIONS:,}")
    made = tuple(_made(number, fields) for number, fields in enumerate(value, 1))
    names = [found.name for found in made]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"invalidation {twice!r}: its name comes twice; rename one")
    return made


def _made(number: int, fields: Mapping[str, Any]) -> ScheduledInvalidation:
    called = f"invalidation {fields.get('name', number)!r}"
    try:
        return ScheduledInvalidation.model_validate(fields)
    except ValidationError as error:
        raise ValueError(f"{called}: {told(error)}") from None
    except CacheError as error:
        raise ValueError(f"{called}: {error}") from None
