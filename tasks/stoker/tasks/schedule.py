"""What beat sends, and how often. Every entry expires before its next one is due, so that a worker that was away
does not meet a backlog."""

from typing import Any

from stoker.config import Settings
from stoker.tasks import names


def beat_schedule(settings: Settings) -> dict[str, dict[str, Any]]:
    """The entries, by name."""
    beat = settings.beat
    wanted: list[tuple[str, float | None, dict[str, Any]]] = [
        (names.REAP, beat.reap_every, {}),
        (names.TICK, beat.tick_every, {}),
        (names.SWEEP, beat.sweep_every, {"again": False}),  # a sweep that is running is enough
        (names.EVICT, beat.evict_every, {}),
    ]
    return {
        task: {"task": task, "schedule": every, "kwargs": kwargs, "options": {"expires": every}}
        for task, every, kwargs in wanted
        if every is not None
    }
