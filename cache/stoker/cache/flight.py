"""One load per key, without I/O: leaders, followers, and whose value may be passed on (rules 1, 2, 9).

`load_once` is a generator of effects; the sync engine performs them with threads and a backend. In a process the
first caller that misses leads a `Flight` and the others follow it; across processes the lease decides who loads.
"""

import math
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from stoker.cache.errors import CacheUnavailable
from stoker.cache.protocol import Busy, Lease

FIRST_POLL_S = 0.005
LONGEST_POLL_S = 0.1


class Hit(NamedTuple):
    """A live value; `stale` if it is past its soft expiry, so that it should be refreshed."""

    value: Any
    stale: bool


class Landed(Protocol):
    """Set when a flight has ended; `threading.Event` is one."""

    def set(self) -> None: ...

    def wait(self, timeout: float) -> Any: ...


@dataclass(slots=True)
class Flight:
    """One load under way in this process.

    Attributes:
        owner: Who leads it, to recognise a loader that asks for its own key.
        landed: Set when it has ended, with or without a value.
        began: When its load began (monotonic seconds), once it has; who called before may take the value.
        loaded: Whether `value` is there.
        closing: Set before the fill is sent; who joins later does not take the value as a stored one.
        accepted: Whether the fill was stored, and alive afterwards.
        value: What the loader returned.
    """

    owner: object
    landed: Landed
    began: float = math.inf
    loaded: bool = False
    closing: bool = False
    accepted: bool = False
    value: Any = None


class Read(NamedTuple):
    """Look the key up. Answer: Hit or None."""


class Acquire(NamedTuple):
    """Ask for the key's lease. Answer: (Lease or Busy, Hit or None)."""


class Load(NamedTuple):
    """Call the loader, under the lease if there is one. Answer: (value, µs)."""

    lease: Lease | None


class Fill(NamedTuple):
    """Store the value under its lease. Answer: whether it was stored."""

    lease: Lease
    value: Any
    load_us: int


class Release(NamedTuple):
    """Give the lease back."""

    lease: Lease


class Wait(NamedTuple):
    """Wait for a flight to land, at most so many seconds."""

    flight: Flight
    seconds: float


class Sleep(NamedTuple):
    """Do nothing for so many seconds."""

    seconds: float


Effect = Read | Acquire | Load | Fill | Release | Wait | Sleep
Flights = dict[tuple[str | None, str], Flight]


def load_once(
    flights: Flights, name: tuple[str | None, str], mine: Flight, max_load: float
) -> Generator[Effect, Any, Any]:
    """Return the key's value, loading it at most once among all callers that wait for it.

    Called after a miss or a stale hit. A stale entry that turns up is loaded anew. The loader's own exception goes
    to its own caller; others try for themselves. Without the server, and after `max_load` seconds of waiting, the
    caller's own load is returned and not stored.
    """
    called = time.monotonic()
    deadline = called + max_load
    pause = FIRST_POLL_S
    while True:
        flight = flights.setdefault(name, mine)
        if flight is mine:
            try:
                done, value = yield from _lead(mine)
            finally:
                flights.pop(name, None)
                mine.landed.set()
            if done:
                return value
            mine = Flight(mine.owner, type(mine.landed)())
        elif flight.owner == mine.owner:
            return (yield Load(None))[0]  # the loader asks for the key it loads
        else:
            done, value = yield from _follow(flight, called, deadline)
            if done:
                return value
        if time.monotonic() >= deadline:
            return (yield Load(None))[0]
        if not flight.accepted:
            yield Sleep(min(pause, max(0.0, deadline - time.monotonic())))
            pause = min(pause * 2, LONGEST_POLL_S)
        try:
            hit = yield Read()
        except CacheUnavailable:
            return (yield Load(None))[0]
        if hit is not None and not hit.stale:
            return hit.value


def _follow(flight: Flight, called: float, deadline: float) -> Generator[Effect, Any, tuple[bool, Any]]:
    """Rule 9: take the leader's value if its load began after this call did; else only if it was not yet on its way
    when this caller joined, and was stored and alive afterwards: what this caller knows to be invalidated is in there.
    """
    in_time = joined_in_time(flight)
    yield Wait(flight, max(0.0, deadline - time.monotonic()))
    if flight.loaded and flight.began > called:
        return True, flight.value
    return in_time and flight.accepted, flight.value


def joined_in_time(flight: Flight) -> bool:
    """Whether the leader has not sent its fill yet. Apart so that the checker can take this guard away."""
    return not flight.closing


def _lead(flight: Flight) -> Generator[Effect, Any, tuple[bool, Any]]:
    try:
        lease, hit = yield Acquire()
    except CacheUnavailable:
        return True, (yield from _load(flight, None))[0]
    if hit is not None and not hit.stale:
        if isinstance(lease, Lease):
            yield Release(lease)
        return True, hit.value
    if isinstance(lease, Busy):
        if hit is not None:
            return True, hit.value  # somebody else refreshes it
        if lease.is_token:  # nobody waits for a token: load, and do not store
            return True, (yield from _load(flight, None))[0]
        return False, None
    try:
        value, load_us = yield from _load(flight, lease)
    except BaseException:
        yield Release(lease)
        raise
    flight.closing = True
    try:
        flight.accepted = yield Fill(lease, value, load_us)
    except CacheUnavailable:
        flight.accepted = False  # whether it was stored is unknown; the value is good for this caller
    return True, value


def _load(flight: Flight, lease: Lease | None) -> Generator[Effect, Any, tuple[Any, int]]:
    flight.began = time.monotonic()
    flight.value, load_us = yield Load(lease)
    flight.loaded = True
    return flight.value, load_us
