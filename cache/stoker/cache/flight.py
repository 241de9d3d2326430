"""One load per key: leaders, followers, and whose value may be passed on (rules 1, 2, 9, 13).

Programs (see `programs`): in a process the first caller that misses leads a `Flight` and the others follow it; across
processes the lease decides who loads. Without the server, callers in one process still share loads.
"""

import math
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from msgspec import Struct

from stoker.cache.errors import CacheUnavailable
from stoker.cache.programs import Landed, Program, Sleep, Wait, unnoticed
from stoker.cache.protocol import Busy, Lease, Name

T = TypeVar("T")
FIRST_POLL_S = 0.005
LONGEST_POLL_S = 0.1
GATHER_S = 0.025
"""Without the server: how long callers are gathered for a load, while an earlier one is under way."""


class Hit(Struct, frozen=True, gc=False):
    """A live value.

    Attributes:
        stale: It is past its soft expiry, so that it should be refreshed.
        left_ms: Until it expires; infinite if never.
        load_us: What its load cost.
    """

    value: Any
    stale: bool
    left_ms: float = math.inf
    load_us: int = 0


@dataclass(slots=True)
class Flight:
    """One load under way in this process.

    Attributes:
        landed: Set when it has ended, with or without a value.
        began: When its load began (monotonic seconds), once it has; who called before may take the value.
        loaded: Whether `value` is there.
        closing: Set before the fill is sent; who joins later does not take the value as a stored one.
        accepted: Whether the fill was stored, and alive afterwards.
        value: What the loader returned.
    """

    landed: Landed
    began: float = math.inf
    loaded: bool = False
    closing: bool = False
    accepted: bool = False
    value: Any = None

    def begin(self) -> None:
        """Its load begins now; until then it may have waited for its turn."""
        self.began = time.monotonic()


class Flights:
    """The loads under way among callers that can wait for each other: the threads of a process, or one event loop.

    Args:
        landed: Makes the events that callers wait for.
    """

    def __init__(self, landed: Callable[[], Landed]) -> None:
        self.landed = landed
        self.leased: dict[Name, Flight] = {}
        self.gathering: dict[Name, Flight] = {}
        """Without the server: loads that have not begun, which whoever comes may join."""
        self.apart: dict[Name, Flight] = {}
        """Without the server: the latest load of a key that has begun."""

    def new(self) -> Flight:
        """A flight that the caller may lead."""
        return Flight(self.landed())


class Attempt(Protocol):
    """One caller's way to its value, step by step, all of them programs."""

    @property
    def name(self) -> Name: ...

    @property
    def seen(self) -> Hit | None:
        """What is to be refreshed; None after a miss."""
        ...

    def read(self) -> Program[Hit | None]: ...

    def acquire(self) -> Program[tuple[Lease | Busy, Hit | None]]: ...

    def load(self, lease: Lease | None, begins: Callable[[], None] = unnoticed) -> Program[tuple[Any, int]]:
        """Call the loader, after `begins`, and keep the lease meanwhile. Returns the value, and what it cost in µs."""
        ...

    def fill(self, lease: Lease, value: Any, load_us: int) -> Program[bool]:
        """Store the value; tells whether that was done. Raises CacheUnavailable if that is unknown."""
        ...

    def release(self, lease: Lease) -> Program[None]: ...


def load_once(flights: Flights, attempt: Attempt, max_load: float) -> Program[Any]:
    """Return the key's value, loading it at most once among all callers that wait for it.

    Called after a miss, or to refresh what was seen. A stale entry that turns up is loaded anew, and served if that
    fails. The loader's own exception goes to its own caller; others try for themselves. After `max_load` seconds of
    waiting the caller's own load is returned and not stored.
    """
    called = time.monotonic()
    deadline = called + max_load
    pause = FIRST_POLL_S
    while True:
        mine = flights.new()
        flight = flights.leased.setdefault(attempt.name, mine)
        try:
            if flight is mine:
                try:
                    done, value = yield from _lead(mine, attempt)
                finally:
                    del flights.leased[attempt.name]
                    mine.landed.set()
            elif led_here(flight) or (yield from _stuck_behind(flight)):
                return (yield from attempt.load(None))[0]
            else:
                done, value = yield from _follow(flight, called, deadline)
            if done:
                return value
            if time.monotonic() >= deadline:
                return (yield from attempt.load(None))[0]
            if not flight.accepted:
                yield Sleep(min(pause, max(0.0, deadline - time.monotonic())))
                pause = min(pause * 2, LONGEST_POLL_S)
            hit = yield from _asked(attempt.read())
        except _NoServerError:
            return (yield from _load_apart(flights, attempt, deadline))
        if hit is not None and not _wanting(hit, attempt.seen):
            return hit.value


class _NoServerError(Exception):
    """The server could not be asked. A loader may raise CacheUnavailable too, but that is its caller's."""


def _asked(step: Program[T]) -> Program[T]:
    try:
        return (yield from step)
    except CacheUnavailable as error:
        raise _NoServerError from error


def _wanting(hit: Hit, seen: Hit | None) -> bool:
    """Whether a hit still is what is to be loaded anew: stale, or, seen before it was, as near its expiry."""
    return hit.stale or (seen is not None and not seen.stale and hit.left_ms <= seen.left_ms)


def _lives(hit: Hit, since: float) -> bool:
    """Whether a hit of that time (monotonic seconds) has not expired since."""
    return (time.monotonic() - since) * 1000 < hit.left_ms


def _follow(flight: Flight, called: float, deadline: float) -> Program[tuple[bool, Any]]:
    """Rule 9: take the leader's value if its load began after this call did; else only if it was not yet on its way
    when this caller joined, and was stored and alive afterwards: what this caller knows to be invalidated is in there.
    """
    in_time = joined_in_time(flight)
    yield Wait(flight.landed, max(0.0, deadline - time.monotonic()))
    if flight.loaded and flight.began > called:
        return True, flight.value
    return in_time and flight.accepted, flight.value


def joined_in_time(flight: Flight) -> bool:
    """Whether the leader has not sent its fill yet. Apart so that the checker can take this guard away."""
    return not flight.closing


def _lead(flight: Flight, attempt: Attempt) -> Program[tuple[bool, Any]]:
    lease, hit = yield from _asked(attempt.acquire())
    acquired = time.monotonic()
    if hit is not None and not _wanting(hit, attempt.seen):
        if isinstance(lease, Lease):
            yield from attempt.release(lease)
        return True, hit.value
    if isinstance(lease, Busy):
        if hit is not None:
            return True, hit.value  # somebody else refreshes it
        if lease.is_token:  # nobody waits for a token: load, and do not store
            return True, (yield from _load(flight, attempt, None, flight.begin))[0]
        return False, None
    try:
        value, load_us = yield from _load(flight, attempt, lease, flight.begin)
    except GeneratorExit:
        raise  # nobody is there any more to give the lease back: it runs out
    except BaseException as error:
        yield from attempt.release(lease)
        if (
            hit is not None
            and attempt.seen is None
            and isinstance(error, Exception)
            and _lives(hit, acquired)
        ):
            return True, hit.value  # rule 8: past its soft expiry only, and better than nothing
        raise
    flight.closing = True
    try:
        flight.accepted = yield from attempt.fill(lease, value, load_us)
    except CacheUnavailable:
        flight.accepted = False  # whether it was stored is unknown; the value is good for this caller
    return True, value


_leading: ContextVar[tuple[Flight, ...]] = ContextVar("stoker_leading", default=())
"""The flights under which the present code runs: it is their loader, or was called by it."""


def led_here(flight: Flight) -> bool:
    """Whether a loader asks for the very key that it loads."""
    return any(led is flight for led in _leading.get())


def _stuck_behind(flight: Flight) -> Program[bool]:
    """Whether a loader would follow a flight that does not begin: that may be waiting for this loader's own place."""
    if not _leading.get() or flight.began < math.inf:
        return False
    yield Wait(flight.landed, LONGEST_POLL_S)
    return flight.began == math.inf and not flight.landed.is_set()


def _load(
    flight: Flight, attempt: Attempt, lease: Lease | None, begins: Callable[[], None]
) -> Program[tuple[Any, int]]:
    before = _leading.get()
    _leading.set((*before, flight))
    try:
        flight.value, load_us = yield from attempt.load(lease, begins)
    finally:
        _leading.set(before)
    flight.loaded = True
    return flight.value, load_us


def _load_apart(flights: Flights, attempt: Attempt, deadline: float) -> Program[Any]:
    """Rule 13: nothing can be stored, but one load serves all callers who asked before it began.

    Callers are gathered until a load has its turn, and while another load of the key is under way, but for that no
    longer than GATHER_S: a value loaded before one's own call may have been invalidated since, by a process that does
    reach the server.
    """
    name = attempt.name
    mine = flights.new()
    flight = flights.gathering.setdefault(name, mine)
    if flight is not mine:
        if (yield from _stuck_behind(flight)):
            return (yield from attempt.load(None))[0]
        yield Wait(flight.landed, max(0.0, deadline - time.monotonic()))
        return flight.value if flight.loaded else (yield from attempt.load(None))[0]

    def begin() -> None:
        del flights.gathering[name]
        flights.apart[name] = mine
        mine.begin()

    try:
        before = flights.apart.get(name)
        if before is not None and not led_here(before):
            yield Wait(before.landed, GATHER_S)
        return (yield from _load(mine, attempt, None, begin))[0]
    finally:
        for flown in (flights.gathering, flights.apart):
            if flown.get(name) is mine:
                del flown[name]
        mine.landed.set()
