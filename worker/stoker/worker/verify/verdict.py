"""Whether a run was good: nothing stale, nothing wrong, nothing unexpected, and enough done to mean it."""

from collections.abc import Iterator

from stoker.worker.verify.harness import Outcome

LEAST_A_SECOND = {"reads": 100, "hits": 20, "loads": 10, "acks": 5}
"""A run with less of it says nothing. Strangers are refused half of the time, so they do half."""
LEAST = {"warmed": 1, "sweeps": 1}
LEAST_WITH_COPIES = {"near_hits": 2}
"""A second."""
LEAST_WITH_JOBS = {"job_acks": 0.5, "duplicates": 0.5, "job_sweeps": 0.02, "refreshes_sent": 0.05}
"""A second. Workers are killed, and take their time to start."""


def problems(outcome: Outcome) -> Iterator[str]:
    """What is wrong with the run, a line each; nothing if it is good."""
    totals = outcome.totals
    for name in ("stale", "wrong"):
        if totals[name]:
            yield f"{name} values were served: {totals[name]}"
    if totals["errors"]:
        yield f"unexpected errors: {totals['errors']}"
    if totals["refused"] and not outcome.plan.strangers:
        yield f"processes that place keys alike were refused: {totals['refused']}"
    if outcome.unstopped:
        yield f"processes that hung: {outcome.unstopped}"
    if outcome.unexpired:
        yield f"keys that never expire were left: {', '.join(outcome.unexpired[:5])}"
    if not (outcome.plan.until_stale and totals["stale"]):
        yield from _too_little(outcome)


def _too_little(outcome: Outcome) -> Iterator[str]:
    share = 0.25 if outcome.plan.strangers else 1.0
    a_second = LEAST_A_SECOND | (LEAST_WITH_JOBS if outcome.plan.jobs else {})
    a_second |= LEAST_WITH_COPIES if outcome.plan.near else {}
    wanted = {name: int(least * outcome.seconds * share) for name, least in a_second.items()} | LEAST
    for name, least in wanted.items():
        if outcome.totals[name] < least:
            yield f"too little was done: {name}={outcome.totals[name]}, at least {least} were to be"
    for fault in outcome.plan.faults:
        if not outcome.struck.get(fault):
            yield f"too little was done: the fault {fault!r} did not strike once"
