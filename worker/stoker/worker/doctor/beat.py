"""Whether a beat sends the tasks that run by the clock, and whether workers run them."""

from collections.abc import Iterator

from stoker.worker.doctor.check import Finding, error, note, ok, warning
from stoker.worker.doctor.system import System

MISSED = 3
"""Turns of the clock that may be missed before it counts as standing still."""
LEAST_LATE_S = 60.0


def check(system: System) -> Iterator[Finding]:
    beats = system.nodes.beats
    late = _late(system)
    if not beats and late is not None and not late:
        yield warning(
            "no beat answers, but what it sends was run lately",
            "it has just ended, or is one without remote control (celery beat before 5.7)",
            "start it as `stoker beat`",
        )
    elif not beats:
        yield error(
            "no beat answers",
            "it does not run, hangs, or does not reach this broker; then orphaned jobs are not taken up again, "
            "and nothing is swept or evicted by the clock",
            "stoker beat",
        )
    elif late:
        yield warning(
            f"{', '.join(beats)} answers, but what it sends has not run for {late:.0f} s",
            "it belongs to another STOKER_NAMESPACE, or no worker serves the queue maintenance",
            "stoker worker -q maintenance; and start `stoker beat` with these settings",
        )
    else:
        yield ok(f"{', '.join(beats)} answers")
    if len(beats) > 1:
        yield note(f"{len(beats)} beats answer", "two do no harm, but one is enough")


def _late(system: System) -> float | None:
    """Seconds that the clock stands still, 0 if it goes, None if nothing tells.

    Evictions tell: each run that beat asked for leaves a job, and nearly nobody else asks for one.
    """
    every, newest = system.settings.beat.evict_every, system.newest_job("evict")
    if every is None or newest is None:
        return None
    age = system.now - newest.created_at
    return age if age > max(MISSED * every, LEAST_LATE_S) else 0.0
