"""Warm plans as settings and operators write them: named sets of keys, and when they are warmed.

    {"nightly": {"template": "product:{id}:{lang}", "params": {"id": ["1", "2"], "lang": ["en", "de"]},
                 "cron": "0 3 * * *", "tenants": ["acme"]},
     "home": {"keys": ["home", "menu"], "every": "15m", "on_startup": true},
     "popular": {"hottest": 1000, "every": "10m"}}

What a plan in code is, and how plans are run, is the business of `stoker.tasks.plans`.
"""

import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from stoker.cache import CacheError
from stoker.cache.templates import Template
from stoker.cache.tenancy import check_key, tenant_field
from stoker.config.limits import Limits
from stoker.config.timing import Timing

ALL: Final = "all"
"""In place of a list of tenants: every one that the fleet knows when a run begins."""
MOST_VALUES = 10_000
"""Keys and parameter values that a plan may list; the keys made of them may be any number."""
MOST_HOTTEST = 10_000
"""Of the keys that are read most."""
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_SHOWN = 80


def check_plan_name(name: object) -> str:
    """The name, or ValueError unless it can be a plan's."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError("a plan's name is 1 to 64 of A-Z a-z 0-9 _ . and -")
    return name


def check_tenants(tenants: Any) -> tuple[str, ...] | Literal["all"]:
    """Whose keys a plan warms; empty: those of the shared key space. Raises ValueError."""
    if tenants == ALL:
        return ALL
    if isinstance(tenants, str) or not isinstance(tenants or (), Iterable):
        raise ValueError(f"give a list of tenants, or {ALL!r} without a list")
    unique = tuple(dict.fromkeys(tenants or ()))
    for tenant in unique:
        if tenant is None:
            raise ValueError("leave tenants out for the shared key space")
        tenant_field(tenant)
    return unique


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Tenants = Annotated[tuple[str, ...] | Literal["all"], BeforeValidator(check_tenants)]


class WarmPlan(Timing, Limits):
    """One plan: explicit keys, or a template with lists of values, warmed for each tenant; or what is read most.

    Attributes:
        name: What people call it.
        keys: Explicit keys.
        template: Or the template of the keys, in which each field stands for one of `params`.
        params: Field to its values; every combination makes a key.
        hottest: Or so many of the keys that the fleet reads most.
        tenants: Whose keys; empty: those of the shared key space, and of the hottest everybody's; `"all"`: those of
            every tenant there is.
    """

    name: Annotated[str, BeforeValidator(check_plan_name)]
    keys: tuple[Annotated[str, BeforeValidator(check_key)], ...] = ()
    template: str | None = None
    params: dict[str, tuple[Annotated[str, BeforeValidator(_text)], ...]] = Field(default={})
    hottest: int | None = Field(default=None, ge=1, le=MOST_HOTTEST)
    tenants: Tenants = ()

    @model_validator(mode="after")
    def _names_keys(self) -> Self:
        if bool(self.keys) + (self.template is not None) + (self.hottest is not None) != 1:
            raise ValueError("give keys, or a template with params, or hottest")
        if self.template is None:
            if self.params:
                raise ValueError("params belong to a template")
        else:
            self._check_template(Template(self.template))
        tenants = 0 if self.tenants == ALL else len(self.tenants)
        listed = len(self.keys) + sum(map(len, self.params.values())) + tenants
        if listed > MOST_VALUES:
            raise ValueError(
                f"lists {listed:,} keys, values and tenants; more than {MOST_VALUES:,} belong into a plan in code"
            )
        return self

    def _check_template(self, template: Template) -> None:
        if not template.fields:
            raise ValueError("the template has no field; give keys")
        for field in template.fields:
            if not self.params.get(field):
                raise ValueError(f"give params for {{{field}}} of the template")
        for field, values in self.params.items():
            if field not in template.fields:
                raise ValueError(f"{field} is no field of the template ({', '.join(template.fields)})")
            for value in values:
                template.key({**dict.fromkeys(template.fields, "x"), field: value})
        longest = {
            field: max(values, key=lambda text: len(text.encode())) for field, values in self.params.items()
        }
        check_key(template.key(longest))

    def names(self) -> Iterator[str]:
        """The keys, one by one, in the same order each time."""
        if self.template is None:
            yield from self.keys
            return
        template = Template(self.template)
        for values in itertools.product(*(self.params[field] for field in template.fields)):
            yield template.filled(dict(zip(template.fields, values, strict=True)))

    def count(self) -> int:
        """How many keys `names` yields."""
        return len(self.keys) or math.prod(len(values) for values in self.params.values())


def parse_plans(value: object) -> tuple[WarmPlan, ...]:
    """Plans by name, as a mapping or as its JSON.

    Raises:
        ValueError: They cannot be used; the text names plan, field and remedy.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(
                f'is no valid JSON object ({error}), such as {{"home": {{"keys": ["home"]}}}}'
            ) from None
    if isinstance(value, tuple) and all(isinstance(plan, WarmPlan) for plan in value):
        return value
    if not isinstance(value, Mapping) or not all(isinstance(plan, Mapping) for plan in value.values()):
        raise ValueError(
            'must be an object of plans by name, such as {"home": {"keys": ["home"], "every": "15m"}}'
        )
    return tuple(make_plan(name, plan) for name, plan in value.items())


def make_plan(name: str, fields: Mapping[str, Any]) -> WarmPlan:
    """A plan from its fields. Raises ValueError as `parse_plans`."""
    if "name" in fields:
        raise ValueError(f"plan {name!r}: name: its name is said already")
    try:
        return WarmPlan.model_validate({**fields, "name": name})
    except ValidationError as error:
        raise ValueError(f"plan {name!r}: {told(error)}") from None
    except CacheError as error:
        raise ValueError(f"plan {name!r}: {error}") from None


def told(error: ValidationError) -> str:
    """What pydantic found, in one line."""
    return "; ".join(_problem(found) for found in error.errors(include_url=False)[:3])


def _problem(found: Any) -> str:
    text = found["msg"].removeprefix("Value error, ")
    field = ".".join(str(part) for part in found["loc"])
    if not field or isinstance(found.get("ctx", {}).get("error"), CacheError):
        return text if not field else f"{field}: {text}"
    shown = repr(found["input"])
    return f"{field}={shown if len(shown) <= _SHOWN else shown[: _SHOWN - 3] + '...'}: {text}"
