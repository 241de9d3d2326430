"""How a warm with a rate spaces its round trips: small ones, one at a time, with rests between them.

For `warm_slice`. A server does one thing after the other, so a reader waits behind whatever the server was sent before.
This way it is a few keys, and not a batch of each lane.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from stoker.cache.budget import Limit
from stoker.cache.programs import Landed, Program, Sleep, Wait

PACED = 32
"""Keys of one round trip where a rate says that there is time."""
HASTE, LONGEST_PAUSE_S = 2.0, 0.02
"""How much faster than the rate the round trips of a process follow each other, as light ones come on top of those that
store, and some are late; and the longest pause between two."""
_LOOK_S = 0.25
"""Longest time between two looks whether it is one's turn."""


class Pace:
    """Of the lanes of one process: whose turn it is by each limit, and when its next round trip may begin."""

    def __init__(self, landed: Callable[[], Landed]) -> None:
        self._landed = landed
        self._taken: dict[str, Landed] = {}
        self._next: dict[str, float] = {}

    @contextmanager
    def turn(self, limit: Limit | None) -> Iterator["Turn"]:
        """For round trips in a row within a limit that has a rate; None: any number of keys, at any time."""
        given_back = self._landed()
        try:
            yield Turn(self, limit, given_back)
        finally:
            if limit is not None and self._taken.get(limit.owner) is given_back:
                del self._taken[limit.owner]
            given_back.set()

    def wait(self, limit: Limit, given_back: Landed) -> Program[None]:
        """Until nobody else has the turn, and the server has had a rest."""
        owner, rate, _ = limit
        assert rate is not None
        while (taken := self._taken.setdefault(owner, given_back)) is not given_back:
            yield Wait(taken, _LOOK_S)
        now = time.monotonic()
        at = max(now, self._next.get(owner, now))
        self._next[owner] = at + min(PACED / (HASTE * rate), LONGEST_PAUSE_S)
        if at > now:
            yield Sleep(at - now)


class Turn:
    """The round trips of one lane, as long as it has some."""

    def __init__(self, pace: Pace, limit: Limit | None, given_back: Landed) -> None:
        self._pace, self._limit, self._given_back = pace, limit, given_back

    def most(self, size: int, times: int = 1) -> int:
        """Keys of one round trip, if there are so many; of a light one, some times as many."""
        return PACED * times if self._limit is not None else max(size, 1)

    def pages(self, size: int, times: int = 1) -> list[slice]:
        """So many keys, as those of a round trip each."""
        most = self.most(size, times)
        return [slice(first, first + most) for first in range(0, size, most)]

    def wait(self) -> Program[None]:
        """Before each of them."""
        if self._limit is not None:
            yield from self._pace.wait(self._limit, self._given_back)
