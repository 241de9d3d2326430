"""Warming one unit of keys: cut it into slices that are loaded together, and ask the budget for each of them.

For `warm`. What becomes of a slice is `warm_slice`'s business.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from secrets import token_hex
from typing import cast

from stoker.cache.budget import Budget, limit_of
from stoker.cache.loaders import Match
from stoker.cache.programs import Landed, Program, Sleep
from stoker.cache.protocol import Name
from stoker.cache.warm_report import Outcome
from stoker.cache.warm_slice import Means, Share, SliceRun
from stoker.cache.work import Unit

FEW = 20
"""Keys that are leased together if their loader is called for each of them."""
_NAP_S = 0.25
"""Longest sleep between two looks whether the warm is over."""
_loader_of = itemgetter(0)


class OverError(Exception):
    """The warm has ended while a lane waited for its turn."""


class Crew:
    """What a warm and its lanes tell each other.

    Attributes:
        dealt: Set when there is more to do; then there is another.
        moved: Set when a unit is done; likewise.
        ended: Set when a lane has ended: nothing is left, or it failed.
        over: Whether lanes shall end after their unit.
        error: What a lane failed with.
        trouble: The last (key, message) of a loader that raised.
    """

    def __init__(self, landed: Callable[[], Landed]) -> None:
        self.dealt, self.moved, self.ended = landed(), landed(), landed()
        self.over = False
        self.error: BaseException | None = None
        self.trouble: tuple[str, str] = ("", "")


@dataclass(slots=True)
class UnitWarmer:
    """Warms the units of one warm, one by one or side by side."""

    means: Means
    budget: Budget

    def warm(self, unit: Unit, crew: Crew) -> Program[Outcome]:
        """Warm the keys of a unit, those that are loaded one by one a few at a time: their leases do not last for ever.

        What may be asked for is settled before any lease is taken: nobody waits for a waiting warmer.
        """
        found = self.means.registry.find_all([key for _, key in unit.names])
        run = SliceRun(self.means, unit)
        yield from run.without_loader(
            [name for name, match in zip(unit.names, found, strict=True) if not match]
        )
        for names, matches in _slices(unit.names, found):
            if crew.over:
                raise OverError
            try:
                yield from self._within_limits(run, names, matches, crew)
            finally:
                crew.trouble = run.trouble or crew.trouble
        return run.outcome

    def _within_limits(
        self, run: SliceRun, names: Sequence[Name], matches: Sequence[Match], crew: Crew
    ) -> Program[None]:
        shares = self._shares(matches)
        token = token_hex(8)
        try:
            for share in shares.values():
                while wait := self.budget.ask(share.limit, token, share.keys):
                    yield from _nap(wait, crew)
                    if crew.over:
                        raise OverError
                share.granted = True
            yield from run.lease_and_fill(names, matches, shares)
        finally:
            rests = [share.tell(self.budget, token) for share in shares.values() if share.granted]
        yield from _nap(max(rests, default=0.0), crew)

    def _shares(self, matches: Sequence[Match]) -> dict[str, Share]:
        """By the owner of each limit, in an order that is everybody's: two warmers never wait for each other."""
        shares = {limit.owner: Share(limit, len(matches)) for limit in self.means.limits}
        for loader, keys in Counter(map(_loader_of, matches)).items():
            shares[loader.owner] = Share(limit_of(loader), keys)
        return dict(sorted(shares.items()))


def _slices(
    names: Sequence[Name], found: Sequence[Match | None]
) -> Iterator[tuple[Sequence[Name], Sequence[Match]]]:
    """What is leased and loaded together: all keys of batch loaders, and a few of the others at a time."""
    matches = cast("Sequence[Match]", found)
    if None not in found and all(loader.many for loader in set(map(_loader_of, matches))):
        yield names, matches
        return
    one_by_one: list[tuple[Name, Match]] = []
    together: list[tuple[Name, Match]] = []
    for name, match in zip(names, found, strict=True):
        if match is not None:
            (together if match[0].many else one_by_one).append((name, match))
    slices = [together] + [one_by_one[at : at + FEW] for at in range(0, len(one_by_one), FEW)]
    for pairs in slices:
        if pairs:
            yield [name for name, _ in pairs], [match for _, match in pairs]


def _nap(seconds: float, crew: Crew) -> Program[None]:
    """Sleep, as long as the warm lasts."""
    while seconds > 0 and not crew.over:
        yield Sleep(min(seconds, _NAP_S))
        seconds -= _NAP_S
