"""What an operator does to warm plans at run time; each change is one write to the plan store.

A plan that an operator added is his altogether. Of one in code or settings he changes when it runs, whether, and how
fast; that is kept beside what its source says, and outlives the next version of it.
"""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from stoker.config import Limits
from stoker.config.warm_plans import check_plan_name, make_plan, told
from stoker.tasks.errors import PlanError
from stoker.tasks.plan_record import PACE_FIELDS, PlanRecord, limits_of, timing_of
from stoker.tasks.plan_store import SEEN_EVERY_MS, PlanStore, existing
from stoker.tasks.plans import given_of

GONE_MS = 10 * SEEN_EVERY_MS
"""After so long, a plan that no worker holds in code or settings counts as gone from there."""


def add(store: PlanStore, name: str, fields: Mapping[str, Any]) -> PlanRecord:
    """Add a plan with the fields of `WarmPlan`.

    Raises:
        PlanError: They cannot be used, or there is such a plan already.
    """
    given = _given(name, fields)

    def new(record: PlanRecord | None, now_ms: int) -> PlanRecord:
        if record is not None:
            raise PlanError(name, f"there is one already, of the {record.source}; change it instead")
        plan = PlanRecord(name=name, source="operator", given=given)
        return plan.with_(next_ms=plan.timing.first(now_ms))

    return _changed(store, name, new)


def change(
    store: PlanStore,
    name: str,
    fields: Mapping[str, Any],
    *,
    on_demand: bool = False,
    unlimited: bool = False,
    as_defined: bool = False,
) -> PlanRecord:
    """Change these fields of a plan; `every` takes the place of `cron`, keys that of a template, and the reverse.

    Args:
        on_demand: Take away its interval or cron.
        unlimited: Take away its rate and concurrency, except what `fields` say of them.
        as_defined: Take back all that operators changed of a plan in code or settings.

    Raises:
        PlanError: There is no such plan, or it cannot be so.
    """
    if not (fields or on_demand or unlimited or as_defined):
        raise PlanError(name, "say what to change")
    if on_demand and ("every" in fields or "cron" in fields):
        raise PlanError(name, "on demand is without interval and cron")

    def changed(record: PlanRecord | None, now_ms: int) -> PlanRecord:
        before = existing(name, record)
        wanted = _replacing(fields, on_demand=on_demand, unlimited=unlimited)
        if before.source == "operator":
            if as_defined:
                raise PlanError(name, "an operator added it: there is nothing else that defines it")
            spec = {field: value for field, value in {**before.given, **wanted}.items() if value is not None}
            after = before.with_(given=_given(name, spec))
        else:
            after = before.with_(changes=_changes(before, wanted, as_defined=as_defined))
        return after if after.timing == before.timing else after.with_(next_ms=after.timing.first(now_ms))

    return _changed(store, name, changed)


def pause(store: PlanStore, name: str) -> PlanRecord:
    """Keep it from being started by the clock or by starting workers. Raises PlanError if there is none."""
    return _changed(store, name, lambda record, _now_ms: existing(name, record).with_(paused=True))


def resume(store: PlanStore, name: str) -> PlanRecord:
    """Let it run again, from its next due time on. Raises PlanError if there is none."""

    def resumed(record: PlanRecord | None, now_ms: int) -> PlanRecord:
        plan = existing(name, record)
        if plan.paused and plan.next_ms is not None and plan.next_ms <= now_ms:
            plan = plan.with_(next_ms=plan.timing.after(plan.next_ms, now_ms)[0])
        return plan.with_(paused=False)

    return _changed(store, name, resumed)


def remove(store: PlanStore, name: str) -> None:
    """Remove a plan; a run of it that is under way goes on to its end if its keys are in code.

    Raises:
        PlanError: There is none, or workers define it and would bring it back.
    """
    if name in store.read().damaged:
        store.update(name, lambda record, _now_ms: record)
        return

    def gone(record: PlanRecord | None, now_ms: int) -> None:
        plan = existing(name, record)
        if plan.source != "operator" and now_ms - plan.seen_ms < GONE_MS:
            raise PlanError(
                name, f"workers define it in their {plan.source} and would bring it back; pause it instead"
            )

    store.update(name, gone)


def _given(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    try:
        check_plan_name(name)
        return given_of(make_plan(name, fields))
    except ValueError as error:
        raise PlanError(name, str(error).removeprefix(f"plan {name!r}: ")) from None


def _replacing(fields: Mapping[str, Any], *, on_demand: bool, unlimited: bool) -> dict[str, Any]:
    """The fields together with those that they take the place of, which become None."""
    wanted = dict(fields)
    for one, others in (
        ("every", ["cron"]),
        ("cron", ["every"]),
        ("keys", ["template", "params"]),
        ("template", ["keys"]),
    ):
        if one in fields:
            wanted = {**dict.fromkeys(others), **wanted}
    if unlimited:
        wanted = {**dict.fromkeys(Limits.model_fields), **wanted}
    return {**wanted, "every": None, "cron": None} if on_demand else wanted


def _changes(plan: PlanRecord, wanted: Mapping[str, Any], *, as_defined: bool) -> dict[str, Any]:
    foreign = [field for field in wanted if field not in PACE_FIELDS]
    if foreign:
        raise PlanError(
            plan.name,
            f"its {', '.join(foreign)} are in the workers' {plan.source}; "
            "only when it runs and how fast can be changed",
        )
    changes = {**({} if as_defined else plan.changes), **wanted}
    try:
        fields = _paced({**plan.given, **changes})
    except ValidationError as error:
        raise PlanError(plan.name, told(error)) from None
    defined = _paced(plan.given)
    return {field: fields[field] for field in changes if fields[field] != defined[field]}


def _paced(spec: dict[str, Any]) -> dict[str, Any]:
    return {**timing_of(spec).model_dump(), **limits_of(spec).model_dump()}


def _changed(
    store: PlanStore, name: str, change: Callable[[PlanRecord | None, int], PlanRecord]
) -> PlanRecord:
    return existing(name, store.update(name, change))
