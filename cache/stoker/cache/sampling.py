"""Looks at entries closely, one page of names or a random sample of all: whose they are, what they take and are worth.

Reading here changes neither recency nor frequency on the server. A sample of a thousand costs it some ten milliseconds,
in pages that let others in between. For `evict` and the monitor.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from stoker.cache import scan, worth
from stoker.cache.scan import Link, Name, Seen
from stoker.cache.wire import Operation, refusal

SAMPLE = 1000
_PAGE = 250
_TRIES = 4
"""Random names asked for, for each one wanted: some are leases or another program's."""
G = TypeVar("G", bound=Hashable)


class Weighed(NamedTuple):
    """An entry with the bytes it takes, its overhead on the server included, and the microseconds each byte saves."""

    seen: Seen
    size: int
    density: float

    @property
    def tenant(self) -> str:
        """Whose it is, as in its name."""
        return self.seen.name.tenant


class Share(NamedTuple):
    """What a group has of the entries' memory, with the half-width of the 95 % interval as a share of all."""

    bytes: int
    entries: int
    share: float
    error: float


@dataclass(frozen=True, slots=True)
class Sample:
    """Entries drawn at random, and how many each stands for.

    Attributes:
        entries: Estimated number of all.
    """

    weighed: Sequence[Weighed]
    entries: float

    @property
    def stands_for(self) -> float:
        """Entries of the server that one of the sample stands for."""
        return self.entries / len(self.weighed) if self.weighed else 0.0

    @property
    def bytes(self) -> int:
        """Estimated bytes of all entries."""
        return round(sum(one.size for one in self.weighed) * self.stands_for)

    def by(self, group_of: Callable[[Weighed], G]) -> dict[G, Share]:
        """What each group takes.

        A share is a ratio of two sums over the sample; its variance is that of the usual linearised ratio estimator
        (Cochran: Sampling Techniques, 3rd ed., 6.4).
        """
        sizes: dict[G, list[int]] = {}
        for one in self.weighed:
            sizes.setdefault(group_of(one), []).append(one.size)
        whole = sum(sum(group) for group in sizes.values())
        squares = sum(size * size for group in sizes.values() for size in group)
        found = {}
        for name, group in sizes.items():
            share = sum(group) / whole
            own = sum(size * size for size in group)
            spread = own * (1 - share) ** 2 + (squares - own) * share**2
            error = 1.96 * math.sqrt(spread) / whole
            each = self.stands_for
            found[name] = Share(round(sum(group) * each), round(len(group) * each), share, error)
        return found


def draw(link: Link, wanted: int, *, counted: bool) -> Operation[Sample]:
    """About so many entries at random, with replacement; few are few only where there are hardly any."""
    size = int((yield (("DBSIZE",),)).reply())
    asked = ours = 0
    weighed: list[Weighed] = []
    while size and len(weighed) < wanted and asked < _TRIES * wanted:
        answer = yield (("RANDOMKEY",),) * _PAGE
        raws = [raw for raw in answer.replies if isinstance(raw, bytes)]
        names = list(_ours(link, raws))
        asked += _PAGE
        ours += len(names)
        weighed += yield from weigh(names, counted=counted)
        if not raws:
            break
    return Sample(weighed[:wanted], size * ours / asked if asked else 0.0)


def _ours(link: Link, raws: Iterable[bytes]) -> Iterable[Name]:
    for raw in raws:
        name = scan.name_of(link, raw)
        if name is not None:
            yield name


def weigh(names: Sequence[Name], *, counted: bool) -> Operation[list[Weighed]]:
    """The entries that are there and can be read; what else stands under such a name is left to the sweep.

    `counted`: the server's policy counts reads; otherwise it knows when the last one was.
    """
    seen = [one for one in (yield from scan.look(names)) if one.readable]
    if not seen:
        return []
    use = "FREQ" if counted else "IDLETIME"
    asked = (((("OBJECT", use, one.name.raw), ("MEMORY", "USAGE", one.name.raw))) for one in seen)
    answer = yield tuple(command for pair in asked for command in pair)
    weighed = []
    for one, used, size in zip(seen, answer.replies[::2], answer.replies[1::2], strict=True):
        if isinstance(size, Exception):
            raise refusal(size)
        if size is not None:  # else it has just gone
            reads = _reads(used, counted=counted)
            weighed.append(Weighed(one, size, worth.density(reads, one.meta.load_us, size)))
    return weighed


def _reads(used: Any, *, counted: bool) -> float:
    if not isinstance(used, int):  # it has gone, or the policy was changed a moment ago
        return 1.0
    return worth.reads_of(used) if counted else worth.reads_by_idle(used)
