"""Warm plans in code, and the keys of any plan.

    @warm_plan("catalogue", every="15m")
    def catalogue() -> Iterator[str]:
        yield from (f"product:{row.id}" for row in products_by_id())

A plan lives in a module of `STOKER_LOADERS`, beside the loaders of its keys. What is known of plans at run time is
`plan_store`'s business, when they are started `tick`'s.
"""

import difflib
import hashlib
import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from stoker.cache import CacheError
from stoker.cache.signatures import name_of, why_not_importable
from stoker.config import Limits, Settings, Timing, WarmPlan
from stoker.config.warm_plans import ALL, check_plan_name, check_tenants, told
from stoker.tasks.errors import PlanError
from stoker.tasks.hot_keys import hottest_of
from stoker.tasks.plan_record import PACE_FIELDS, PlanRecord
from stoker.tasks.plan_store import Known

PlanKey = str | tuple[str | None, str]
Pair = tuple[str | None, str]
Tenants = tuple[str, ...]
F = TypeVar("F", bound=Callable[[], Iterable[PlanKey]])


@dataclass(frozen=True, slots=True)
class CodePlan:
    """A function that yields keys, and when and how fast they are warmed."""

    name: str
    function: Callable[[], Iterable[PlanKey]]
    tenants: Tenants | Literal["all"]
    timing: Timing
    limits: Limits

    def given(self) -> dict[str, Any]:
        """What the plan store is told."""
        given = {
            **self.timing.model_dump(exclude_defaults=True),
            **self.limits.model_dump(exclude_defaults=True),
        }
        if self.tenants:
            given["tenants"] = ALL if self.tenants == ALL else list(self.tenants)
        return {**given, "function": name_of(self.function)}

    def keys(self, tenants: Tenants) -> Iterator[Pair]:
        """The keys with their tenants, as the function yields them."""
        found = self.function()
        if isinstance(found, str | bytes) or not isinstance(found, Iterable):
            raise PlanError(
                self.name, f"{name_of(self.function)} gave {type(found).__name__}; let it yield keys"
            )
        for item in found:
            if isinstance(item, tuple):
                yield item
            else:
                yield from _for_each(tenants, item)


_registered: dict[str, CodePlan] = {}


def warm_plan(
    name: str,
    *,
    every: str | float | timedelta | None = None,
    cron: str | None = None,
    priority: int = 5,
    on_startup: bool = False,
    tenants: Iterable[str] | Literal["all"] | None = None,
    rate: float | None = None,
    concurrency: int | None = None,
) -> Callable[[F], F]:
    """Make the decorated generator function a warm plan; the function itself is not changed.

    It yields keys, or (tenant, key) pairs, as many as it likes: they are never held together. A run that was stopped
    goes on by leaving out as many as it had done, so the function must yield the same order again.

    Args:
        name: What people call it: 1 to 64 of A-Z a-z 0-9 _ . and -.
        every: Time between two runs: `"30s"`, `"15m"`, `"2h"`, `"1d"`, a timedelta, or seconds.
        cron: Or five cron fields, in UTC: `"0 3 * * *"`. With neither, it runs when it is asked for.
        priority: 0 to 9; of plans that are due together the highest is sent first.
        on_startup: Whether it also runs when the workers start.
        tenants: Whose keys plain ones are, each key for all of them; None: those of the shared key space; `"all"`:
            those of every tenant that somebody had read for when the run began.
        rate: Keys a second that all workers together may load for it; None: as many as the keys' loaders allow.
        concurrency: Batches that they may load for it at once; None likewise.

    Raises:
        PlanError: Something of this cannot be used, no worker could import the function, or the name is taken.
    """
    try:
        check_plan_name(name)
        timing = Timing.model_validate(
            {"every": every, "cron": cron, "priority": priority, "on_startup": on_startup}
        )
        limits = Limits(rate=rate, concurrency=concurrency)
        whose = check_tenants(tenants)
    except ValidationError as error:
        raise PlanError(str(name), told(error)) from None
    except ValueError as error:
        raise PlanError(str(name), str(error)) from None

    def register(function: F) -> F:
        _check_function(name, function)
        other = _registered.get(name)
        if other is not None and name_of(other.function) != name_of(function):
            both = f"{name_of(other.function)} and {name_of(function)}"
            raise PlanError(name, f"{both} have this name; rename one")
        _registered[name] = CodePlan(name, function, whose, timing, limits)
        return function

    return register


def _check_function(name: str, function: Any) -> None:
    if not inspect.isfunction(function) or inspect.iscoroutinefunction(function):
        raise PlanError(name, f"{function!r} is no plain function; decorate a generator function")
    if inspect.isasyncgenfunction(function):
        raise PlanError(name, f"{name_of(function)} is asynchronous; write a plain generator function")
    if (reason := why_not_importable(function)) is not None:
        raise PlanError(name, f"no worker could import {name_of(function)}: {reason}")
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise PlanError(name, f"{name_of(function)} is called without arguments: {error}") from None


def known(settings: Settings) -> list[Known]:
    """The plans that this process holds in its code and its settings.

    Raises:
        PlanError: Two of them have one name.
    """
    for plan in settings.warm_plans:
        if (other := _registered.get(plan.name)) is not None:
            raise PlanError(
                plan.name, f"it is in STOKER_WARM_PLANS and in {name_of(other.function)}; rename one"
            )
    in_code = [Known(plan.name, "code", plan.given()) for plan in _registered.values()]
    return in_code + [Known(plan.name, "settings", given_of(plan)) for plan in settings.warm_plans]


def listed(name: str, spec: Mapping[str, Any]) -> WarmPlan:
    """A plan that lists its keys, from its fields.

    Raises:
        PlanError: They cannot be used.
    """
    try:
        return WarmPlan.model_validate({**spec, "name": name})
    except ValidationError as error:
        raise PlanError(name, told(error)) from None
    except CacheError as error:
        raise PlanError(name, str(error)) from None


def given_of(plan: WarmPlan) -> dict[str, Any]:
    """What the plan store is told of a plan that lists its keys."""
    return plan.model_dump(mode="json", exclude_defaults=True, exclude={"name"})


@dataclass(frozen=True, slots=True)
class PlanKeys:
    """The keys of a plan.

    Attributes:
        keys: With their tenants; may be iterated once.
        version: Another one if the plan was changed: then how many keys were done means nothing.
        expected: How many keys there were last time; None: not known.
        rate: Keys a second that all workers together may load; None: any.
        concurrency: Batches that they may load at once; None: any.
    """

    keys: Iterable[Pair]
    version: str
    expected: int | None
    rate: float | None
    concurrency: int | None


def keys_of(name: str, plans: Mapping[str, PlanRecord], all_tenants: Callable[[], Tenants]) -> PlanKeys:
    """What is to be warmed by one of the plans that the store knows.

    Args:
        all_tenants: Called if the plan is for all tenants; see `plan_tenants`.

    Raises:
        PlanError: There is no such plan, or this process does not have its function.
    """
    record = plans.get(name)
    if record is None:
        raise PlanError(name, "there is no such plan" + _nearest(name, list(plans)))
    spec, in_code = record.spec, _registered.get(name)
    limits = record.limits
    if "function" not in spec:
        plan = listed(name, spec)
        tenants = all_tenants() if plan.tenants == ALL else plan.tenants
        if plan.hottest is not None:
            hot = hottest_of(plan.hottest, tenants or None)
            version = _version({**spec, "keys": hot}, tenants)  # what is hot now is not what it was
            return PlanKeys(hot, version, None, limits.rate, limits.concurrency)
        keys = _Listed(plan, tenants)
        return PlanKeys(keys, _version(spec, tenants), None, limits.rate, limits.concurrency)
    if in_code is None:
        remedy = "name its module in STOKER_LOADERS of every worker that serves the queue warm"
        raise PlanError(name, f"this worker has not imported {spec['function']}; {remedy}")
    tenants = all_tenants() if in_code.tenants == ALL else in_code.tenants
    version = _version(in_code.given(), tenants)
    return PlanKeys(in_code.keys(tenants), version, record.keys, limits.rate, limits.concurrency)


class _Listed:
    """The keys of a plan that lists them; their number is known."""

    def __init__(self, plan: WarmPlan, tenants: Tenants) -> None:
        self._plan = plan
        self._tenants = tenants

    def __iter__(self) -> Iterator[Pair]:
        for key in self._plan.names():
            yield from _for_each(self._tenants, key)

    def __len__(self) -> int:
        return self._plan.count() * max(len(self._tenants), 1)


def _for_each(tenants: Tenants, key: str) -> Iterator[Pair]:
    if not tenants:
        yield None, key
    for tenant in tenants:
        yield tenant, key


def _version(spec: Mapping[str, Any], tenants: Tenants) -> str:
    """Of the keys and their order: when they are warmed, and how fast, may change under a run."""
    timeless = {name: value for name, value in spec.items() if name not in PACE_FIELDS}
    if spec.get("tenants") == ALL:
        timeless["tenants"] = list(tenants)
    return hashlib.sha256(json.dumps(timeless, sort_keys=True).encode()).hexdigest()[:16]


def _nearest(name: str, others: list[str]) -> str:
    close = difflib.get_close_matches(name, others, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else "; `stoker plans` lists them"
