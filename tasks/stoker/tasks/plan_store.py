"""The warm plans of a namespace, on the state server: what is due, what an operator changed, what became of runs.

A record is read, changed here and written back only if nobody else wrote it meanwhile; by that alone it is decided who
of several starts a run. When the server forgot everything, workers write down the plans of their code and settings
again; what only the server knew is lost, and a process that remembers it says so.
"""

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from secrets import token_hex
from typing import Any

from pydantic import ValidationError

from stoker.cache import keys
from stoker.tasks import state_server
from stoker.tasks.errors import PlanError, StateUnavailable
from stoker.tasks.plan_record import PlanRecord, Source
from stoker.tasks.state_server import bounded

log = logging.getLogger(__name__)

KEPT_MS = 90 * 86_400_000
"""How long plans are kept after the last look at them, which every tick is."""
SEEN_EVERY_MS = 60_000
TENANTS_KEPT_MS = 86_400_000
_LIFE, _LOST = ":life", ":lost"  # no plan is called so
_TRIES = 20


@dataclass(frozen=True, slots=True)
class Known:
    """A plan that this process holds in its code or its settings."""

    name: str
    source: Source
    given: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All plans at one moment.

    Attributes:
        now_ms: The server's time.
        plans: The readable ones by name, in order.
        damaged: The names of those whose record cannot be read.
        life: Of the store; another one after the server forgot everything. Empty before the first plan.
        lost: What operators had done before that, as far as some process remembered: name to what.
    """

    now_ms: int
    plans: dict[str, PlanRecord]
    damaged: tuple[str, ...]
    life: str
    lost: dict[str, str]


Change = Callable[[PlanRecord | None, int], PlanRecord | None]
"""Called with a plan (None: there is none) and the server's time; returns what is to be (None: nothing)."""


class PlanStore:
    """The plans of one namespace. Every method takes about a second at most for each round trip, and may raise
    `StateUnavailable`, after which it is unknown whether it took effect."""

    def __init__(self, url: str, namespace: str) -> None:
        self._namespace = namespace
        self._key = keys.plans(namespace)
        self._redis = state_server.connect(url)
        self._put = state_server.script(self._redis, "put_plan")
        self._remembered: tuple[str, dict[str, str]] = ("", {})

    def close(self) -> None:
        self._redis.close()

    def read(self) -> Snapshot:
        """All plans."""
        with bounded():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.hgetall(self._key)
            pipeline.time()
            pipeline.pexpire(self._key, KEPT_MS)
            found, (seconds, micros), _ = pipeline.execute()
        life, lost = found.pop(_LIFE, ""), found.pop(_LOST, "")
        records = {name: _record(name, text) for name, text in sorted(found.items())}
        plans = {name: record for name, record in records.items() if record is not None}
        damaged = tuple(name for name, record in records.items() if record is None)
        return Snapshot(seconds * 1000 + micros // 1000, plans, damaged, life, _lost(lost))

    def update(self, name: str, change: Change) -> PlanRecord | None:
        """Change a plan, however many others do so too. What `change` raises is passed on, and nothing written.

        Returns:
            What it is now.
        """
        for _ in range(_TRIES):
            with bounded():
                pipeline = self._redis.pipeline(transaction=False)
                pipeline.hget(self._key, name)
                pipeline.time()
                text, (seconds, micros) = pipeline.execute()
            before = None if text is None else _record(name, text)
            after = change(before, seconds * 1000 + micros // 1000)
            if after == before and (after is not None or text is None):
                return after
            if self._write(name, text, after):
                return after
        raise StateUnavailable(f"plan {name!r} was changed by others {_TRIES} times meanwhile")

    def take(self, before: PlanRecord, after: PlanRecord) -> bool:
        """Write `after` if the plan is still as `before`: of several that try, one succeeds."""
        ours = False

        def change(record: PlanRecord | None, _now_ms: int) -> PlanRecord | None:
            nonlocal ours
            ours = record == before
            return after if ours else record

        self.update(before.name, change)
        return ours

    def seed(self, known: Iterable[Known]) -> Snapshot:
        """Write down the plans that this process holds, where they are not known yet, or otherwise.

        What an operator changed of them stays changed.
        """
        snapshot = self.read()
        written = False
        for plan in known:
            before = snapshot.plans.get(plan.name)
            if before is None or _seeded(before, plan, snapshot.now_ms) != before:
                self.update(plan.name, lambda record, now, plan=plan: _seeded(record, plan, now))  # type: ignore[misc]
                written = True
        return self.read() if written else snapshot

    def remember(self, snapshot: Snapshot) -> None:
        """Keep in mind what operators did, and report it lost once the server has forgotten it."""
        life, done = self._remembered
        if life and life != snapshot.life and done:
            shown = ", ".join(f"{name} ({what})" for name, what in done.items())
            log.error("the state server forgot the warm plans; what operators did is lost: %s", shown)
            with bounded():
                self._redis.hset(self._key, _LOST, json.dumps({**snapshot.lost, **done}))
                self._redis.pexpire(self._key, KEPT_MS)
        done = {name: what for name, plan in snapshot.plans.items() if (what := plan.of_operator())}
        self._remembered = (snapshot.life, done)

    def forget_losses(self) -> None:
        """Stop reporting what was lost."""
        with bounded():
            self._redis.hdel(self._key, _LOST)

    def keep_tenants(self, name: str, tenants: Sequence[str]) -> None:
        """Write down whose keys the run of a plan warms that begins now."""
        with bounded():
            self._redis.set(keys.plan_tenants(self._namespace, name), json.dumps(tenants), px=TENANTS_KEPT_MS)

    def kept_tenants(self, name: str) -> tuple[str, ...] | None:
        """What was written down last; None if it is not known any more."""
        with bounded():
            text = self._redis.getex(keys.plan_tenants(self._namespace, name), px=TENANTS_KEPT_MS)
        return _tenants(text)

    def _write(self, name: str, before: str | None, after: PlanRecord | None) -> bool:
        text = "" if after is None else _text(after)
        with bounded():
            return bool(self._put(keys=[self._key], args=[name, before or "", text, KEPT_MS, token_hex(8)]))


def _seeded(record: PlanRecord | None, plan: Known, now_ms: int) -> PlanRecord:
    given = dict(plan.given)
    if record is None or record.source == "operator":
        new = PlanRecord(name=plan.name, source=plan.source, given=given, seen_ms=now_ms)
        if record is not None:
            log.warning("plan %r of an operator gives way to the one in the %s", plan.name, plan.source)
            new = new.with_(paused=record.paused)
        return new.with_(next_ms=new.timing.first(now_ms))
    if now_ms - record.seen_ms >= SEEN_EVERY_MS:
        record = record.with_(seen_ms=now_ms)
    if (record.source, record.given) == (plan.source, given):
        return record
    changed = record.with_(source=plan.source, given=given, seen_ms=now_ms)
    return changed if changed.timing == record.timing else _timed_anew(record, changed, now_ms)


def _timed_anew(before: PlanRecord, after: PlanRecord, now_ms: int) -> PlanRecord:
    """Two versions of the code may take turns for a while, and must not put a plan off each time."""
    due = after.timing.first(now_ms)
    if due is not None and after.timing.every is not None and before.next_ms is not None:
        due = min(due, before.next_ms)
    return after.with_(next_ms=due)


def existing(name: str, record: PlanRecord | None) -> PlanRecord:
    """The record, for those who change a plan that must be there.

    Raises:
        PlanError: There is none.
    """
    if record is None:
        raise PlanError(
            name, "there is no such plan; `stoker plans` lists those that workers and operators made known"
        )
    return record


def _text(record: PlanRecord) -> str:
    return record.model_dump_json(exclude_defaults=True)


def _record(name: str, text: str) -> PlanRecord | None:
    try:
        record = PlanRecord.model_validate_json(text)
    except ValidationError as error:
        log.error("the record of plan %r is damaged: %s", name, str(error)[:300])
        return None
    return record if record.name == name else None


def _lost(text: str) -> dict[str, str]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return {str(name): str(what) for name, what in found.items()} if isinstance(found, dict) else {}


def _tenants(text: str | None) -> tuple[str, ...] | None:
    try:
        found = json.loads(text or "")
    except ValueError:
        return None
    usable = isinstance(found, list) and bool(found) and all(isinstance(tenant, str) for tenant in found)
    return tuple(found) if usable else None
