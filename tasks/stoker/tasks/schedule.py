"""What beat sends, and how often. Every entry expires before its next one is due, so that a worker that was away
does not meet a backlog; of a cron that is due several times a day, it may meet those of one day."""

from typing import Any

from celery.schedules import crontab

from stoker.config import ScheduledInvalidation, Settings
from stoker.tasks import names


def beat_schedule(settings: Settings) -> dict[str, dict[str, Any]]:
    """The entries, by name."""
    beat = settings.beat
    wanted: list[tuple[str, float | None, dict[str, Any]]] = [
        (names.REAP, beat.reap_every, {}),
        (names.TICK, beat.tick_every, {}),
        (names.WATCH, beat.watch_every, {}),
        (names.SWEEP, beat.sweep_every, {"again": False}),  # a sweep that is running is enough
        (names.EVICT, beat.evict_every, {}),
        (names.HOT, beat.hot_every, {}),
    ]
    if settings.cache_cluster:
        wanted.append((names.REBALANCE, beat.rebalance_every, settings.rebalance.model_dump()))
    ours = {
        task: {"task": task, "schedule": every, "kwargs": kwargs, "options": {"expires": every}}
        for task, every, kwargs in wanted
        if every is not None
    }
    return ours | {
        f"{names.INVALIDATE} {found.name}": _entry(found) for found in settings.scheduled_invalidations
    }


def _entry(invalidation: ScheduledInvalidation) -> dict[str, Any]:
    """Of two beats both send it: to invalidate twice does no harm."""
    cron = invalidation.cron
    return {
        "task": names.INVALIDATE,
        "schedule": invalidation.every if cron is None else crontab.from_string(cron),
        "kwargs": invalidation.arguments(),
        "options": {"expires": invalidation.longest_pause()},
    }
