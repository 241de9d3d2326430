"""When something is due: by interval, by cron; a warm plan also at the start of the workers, or when it is asked for.

Times are Unix time in ms, and cron is read in UTC. Nothing here has a clock.
"""

import itertools
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

LEAST_EVERY_S = 1.0
MOST_EVERY_S = 366 * 86_400.0
MOST_PRIORITY = 9
_MOST_DAYS = 9 * 366  # from one 29 February to the next are at most eight years
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_INTERVAL = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)([smhd])", re.ASCII)


def seconds(value: Any) -> Any:
    """An interval such as `"30s"`, `"15m"`, `"2h"`, `"1d"`, a timedelta, or a number of seconds, as seconds.

    Raises:
        ValueError: It is none of these, or out of bounds.
    """
    if value is None:
        return None
    if isinstance(value, str):
        found = _INTERVAL.fullmatch(value.strip())
        if found is None:
            raise ValueError("write a number and its unit, such as '30s', '15m', '2h' or '1d'")
        value = float(found[1]) * _UNITS[found[2]]
    elif isinstance(value, timedelta):
        value = value.total_seconds()
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("give text such as '15m', a timedelta, or seconds")
    if not LEAST_EVERY_S <= value <= MOST_EVERY_S:
        raise ValueError(f"must be from {LEAST_EVERY_S:g} second to {MOST_EVERY_S / 86_400:g} days")
    return float(value)


class Clock(BaseModel):
    """An interval or a cron, or neither.

    Attributes:
        every: Seconds between two due times; see `seconds` for what it may be written as.
        cron: Minute, hour, day of the month, month, day of the week; all five must fit, as in Celery.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    every: Annotated[float | None, BeforeValidator(seconds)] = None
    cron: str | None = None

    @field_validator("cron")
    @classmethod
    def _check_cron(cls, text: str | None) -> str | None:
        if text is None:
            return None
        text = " ".join(text.split())
        if _next_cron(text, 0) is None:
            raise ValueError("no day fits it")
        return text

    @model_validator(mode="after")
    def _one_clock(self) -> Self:
        if self.every is not None and self.cron is not None:
            raise ValueError("give every or cron, not both")
        return self

    def first(self, now_ms: int) -> int | None:
        """When it is due first, if it begins now; None if no clock starts it."""
        if self.every is not None:
            return now_ms + round(self.every * 1000)
        return None if self.cron is None else _next_cron(self.cron, now_ms)

    def after(self, due_ms: int, now_ms: int) -> tuple[int | None, int]:
        """What follows a time at which it was due.

        Intervals count from that time, not from now, so that they do not drift.

        Returns:
            The first due time after now, and how many due times between the two were passed over.
        """
        if self.every is not None:
            step = round(self.every * 1000)
            passed = max(now_ms - due_ms, 0) // step
            return due_ms + (passed + 1) * step, passed
        if self.cron is None:
            return None, 0
        return _passed_crons(self.cron, due_ms, now_ms)

    def longest_pause(self) -> float | None:
        """Seconds from one due time to the next: as many, and with cron at most as many; None if no clock starts it."""
        return self.every if self.cron is None else _longest_pause_s(self.cron)


class Timing(Clock):
    """When a plan is due, and what goes first when several are.

    Attributes:
        on_startup: Whether it runs when the workers start.
        priority: Of plans that are due together the highest goes first.
    """

    on_startup: bool = False
    priority: int = Field(default=5, ge=0, le=MOST_PRIORITY, strict=True)


def _passed_crons(text: str, due_ms: int, now_ms: int) -> tuple[int | None, int]:
    passed = 0
    following = _next_cron(text, due_ms)
    while following is not None and following <= now_ms:
        passed += 1
        if passed == _MOST_COUNTED:
            return _next_cron(text, now_ms), passed
        following = _next_cron(text, following)
    return following, passed


_MOST_COUNTED = 1000


def _next_cron(text: str, after_ms: int) -> int | None:
    """The first full minute after a time that fits; None if none does.

    Raises:
        ValueError: The text is no cron expression.
    """
    fields = _parsed(text)
    moment = datetime.fromtimestamp(after_ms // 60_000 * 60, UTC) + timedelta(minutes=1)
    for day in _days(fields, moment.replace(hour=0, minute=0)):
        for hour in sorted(fields.hour):
            for minute in sorted(fields.minute):
                if (fits := day.replace(hour=hour, minute=minute)) >= moment:
                    return round(fits.timestamp() * 1000)
    return None


def _longest_pause_s(text: str) -> float:
    """From one day that fits to the next there may be a little less, for the hours are the same."""
    days = list(_days(_parsed(text), datetime(2000, 1, 1, tzinfo=UTC)))
    pauses = [(later - earlier).days for earlier, later in itertools.pairwise(days)]
    return max(pauses, default=_MOST_DAYS) * 86_400.0


def _days(fields: Any, first: datetime) -> Iterator[datetime]:
    """The days that fit, from the first one on, among so many that the rarest must come."""
    for day in (first + timedelta(days=number) for number in range(_MOST_DAYS)):
        weekday = day.isoweekday() % 7  # cron counts from Sunday
        if (
            day.month in fields.month_of_year
            and day.day in fields.day_of_month
            and weekday in fields.day_of_week
        ):
            yield day


def _parsed(text: str) -> Any:
    from celery.schedules import ParseException, crontab  # only those who use cron wait for its import

    try:
        return crontab.from_string(text)
    except (ValueError, ParseException) as error:
        example = "write five fields (minute hour day month weekday), such as '0 3 * * *'"
        raise ValueError(f"{example}: {error}") from None
