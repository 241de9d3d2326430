"""Warm plans whose runs fail or do not start, and plans that the state server has lost."""

from collections.abc import Iterable, Iterator

from stoker.tasks import runtime
from stoker.tasks.plan_record import PlanRecord
from stoker.tasks.plan_store import Snapshot
from stoker.worker.doctor.check import Finding, error, ok, warning
from stoker.worker.doctor.system import System
from stoker.worker.plans_view import limits
from stoker.worker.terminal import counted

LATELY_MS = 3_600_000
MISSED_TICKS = 3
LEAST_LATE_MS = 60_000
_SHOWN = 3


def check(system: System) -> Iterator[Finding]:
    _ = system.state_server
    snapshot = runtime.current().plans.read()
    problems = [*_forgotten(snapshot), *_not_run(system, snapshot), *_failed(snapshot)]
    yield from problems
    if not problems:
        paused = sum(plan.paused for plan in snapshot.plans.values())
        yield ok(counted(len(snapshot.plans), "warm plan") + (f", {paused} paused" if paused else ""))


def _forgotten(snapshot: Snapshot) -> Iterator[Finding]:
    if snapshot.lost:
        yield warning(
            "what operators did to warm plans is lost: "
            + _some(f"{name} ({what})" for name, what in snapshot.lost.items()),
            "the state server was emptied, or restarted without its append-only file",
            "do it again with `stoker plans`, then `stoker plans seen`",
        )
    if snapshot.damaged:
        yield error(
            f"records of warm plans that cannot be read: {_some(iter(snapshot.damaged))}",
            "something else writes to the state server, or another version of Stoker did",
            "stoker plans remove NAME; workers make those of code and settings known again",
        )


def _not_run(system: System, snapshot: Snapshot) -> Iterator[Finding]:
    late_ms = max(LEAST_LATE_MS, round(MISSED_TICKS * system.settings.beat.tick_every * 1000))
    late = [plan for plan in snapshot.plans.values() if _overdue_ms(plan, snapshot.now_ms) > late_ms]
    if late:
        yield error(
            f"due, and not started: {_some(plan.name for plan in late)}",
            "no beat sends stoker.tick, or no worker serves the queue maintenance",
            "see workers and beat",
        )
    missed = [p for p in snapshot.plans.values() if p.missed_ms and snapshot.now_ms - p.missed_ms < LATELY_MS]
    if missed:
        yield warning(
            f"runs were missed within the last hour: {_some(f'{plan.name} ({plan.missed:,} ever)' for plan in missed)}",
            "the run before was not over when they were due, or no worker was there",
            "give them more time with `stoker plans change NAME --every`, or the queue warm more workers"
            + _held_back(missed),
        )


def _held_back(missed: Iterable[PlanRecord]) -> str:
    held = [f"{plan.name} ({limits(plan)})" for plan in missed if limits(plan)]
    return f"; they may be held back by limits of their own: {_some(held)}" if held else ""


def _failed(snapshot: Snapshot) -> Iterator[Finding]:
    failed = [plan for plan in snapshot.plans.values() if plan.outcome in ("failed", "lost")]
    if failed:
        yield warning(
            f"the last run failed: {_some(plan.name for plan in failed)}",
            "; ".join(f"{plan.name}: {plan.error[:200]}" for plan in failed[:_SHOWN]),
            f"stoker jobs {failed[0].job}; run it again with `stoker plans run {failed[0].name}`",
        )


def _overdue_ms(plan: PlanRecord, now_ms: int) -> int:
    return 0 if plan.paused or plan.next_ms is None else now_ms - plan.next_ms


def _some(words: Iterable[str]) -> str:
    found = list(words)
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(found[:_SHOWN]) + more
