"""Looks at entries closely, one page of names or a random sample of all: whose they are, what they take and are worth.

Reading here changes neither recency nor frequency on the server. A sample of a thousand costs it some ten milliseconds,
in pages that let others in between. For `evict` and the monitor.
"""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from stoker.cache import scan, scripts, worth
from stoker.cache.scan import Link, Name, Seen
from stoker.cache.wire import Call, Operation

SAMPLE = 1000
_PAGE = 32
"""Entries of one look, so that none holds the server for long."""
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

    def by_tenant(self) -> dict[str, Share]:
        """What each tenant, as in keys, takes."""
        sizes: dict[str, list[int]] = {}
        for one in self.weighed:
            sizes.setdefault(one.tenant, []).append(one.size)
        return shares(sizes, self.stands_for)


def shares(sizes: Mapping[G, Sequence[int]], stands_for: float) -> dict[G, Share]:
    """What each group takes of all, by the sizes of a sample of which each stands for so many.

    A share is a ratio of two sums over the sample; its variance is that of the usual linearised ratio estimator
    (Cochran: Sampling Techniques, 3rd ed., 6.4).
    """
    whole = sum(map(sum, sizes.values()))
    squares = sum(size * size for group in sizes.values() for size in group)
    found = {}
    for name, group in sizes.items():
        share, own = sum(group) / whole, sum(size * size for size in group)
        error = 1.96 * math.sqrt(own * (1 - share) ** 2 + (squares - own) * share**2) / whole
        found[name] = Share(round(sum(group) * stands_for), round(len(group) * stands_for), share, error)
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


def weigh(names: Sequence[Name], *, counted: bool, aged_s: float = 0.0) -> Operation[list[Weighed]]:
    """The entries that are there and can be read; what else stands under such a name is left to the sweep.

    Args:
        counted: The server's policy counts reads; otherwise it knows when the last one was.
        aged_s: Seconds since the time as of which they are judged: none is worth less because the look came late.
    """
    weighed: list[Weighed] = []
    for first in range(0, len(names), _PAGE):
        weighed += yield from _weigh(names[first : first + _PAGE], counted=counted, aged_s=aged_s)
    return weighed


def _weigh(names: Sequence[Name], *, counted: bool, aged_s: float) -> Operation[list[Weighed]]:
    by_shard: dict[int, list[Name]] = {}  # on a cluster the keys of a script have to be in one slot
    for name in names:
        by_shard.setdefault(name.number, []).append(name)
    how = scan.HEAD_BYTES - 1, "FREQ" if counted else "IDLETIME"
    calls = (Call(scripts.LOOK, tuple(name.raw for name in group), how) for group in by_shard.values())
    answer = yield (("CLIENT", "NO-TOUCH", "ON"), *calls, ("CLIENT", "NO-TOUCH", "OFF"))
    weighed = []
    for place, group in enumerate(by_shard.values(), 1):
        said = answer.reply(place)
        for name, head, used, size in zip(group, said[::3], said[1::3], said[2::3], strict=True):
            seen = scan.seen(name, head) if size > 0 else None
            if seen is not None and seen.readable:
                reads = _reads(used, counted=counted, aged_s=aged_s)
                weighed.append(Weighed(seen, size, worth.density(reads, seen.meta.load_us, size)))
    return weighed


def _reads(used: int, *, counted: bool, aged_s: float) -> float:
    if used < 0:  # it has gone, or the policy was changed a moment ago
        return 1.0
    return worth.reads_of(used) if counted else worth.reads_by_idle(max(0, used - int(aged_s)))
