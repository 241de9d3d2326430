"""Where to cut: which entries go so that enough memory comes free. Decided from a sample, then applied to each entry.

The order: what no reader may be served; what is past its soft expiry; what tenants have above their quotas; then by
turn (see `worth`) and, within one, what saves the least loading by its size. Choosing a threshold from a sample needs
one walk over the server and no list of candidates, so it can be killed anywhere. For `evict`; no I/O.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from zlib import crc32

from stoker.cache.sampling import Sample, Weighed
from stoker.cache.worth import ORDER, Turn

DEAD, STALE, OVER_QUOTA, LEAST_WORTH = "dead", "stale", "over_quota", "least_worth"
REASONS = (DEAD, STALE, OVER_QUOTA, LEAST_WORTH)
Rank = tuple[int, float, int]
"""Order of the turn, density, and a number of the name's own, for many are worth the same; the lower goes first."""
_NOTHING: Rank = (-1, 0.0, 0)
_ALL: Rank = (ORDER[Turn.LAST], 1e300, 0)


class Cut(NamedTuple):
    """What goes: the dead, and of the others what each rule reaches.

    Attributes:
        stale: Whether what is past its soft expiry goes.
        tenants: Encoded tenants that are over their quota, up to which rank theirs goes, and how many bytes of it.
        rank: Up to which rank of anybody goes.
    """

    stale: bool = False
    tenants: Mapping[str, tuple[Rank, float]] = {}
    rank: Rank = _NOTHING

    def reason(self, one: Weighed, now_ms: int) -> str | None:
        """Why the entry goes; None if it stays."""
        if one.seen.dead():
            return DEAD
        rank = rank_of(one)
        if not _may_go(one):
            return None
        if self.stale and _is_stale(one, now_ms):
            return STALE
        if rank <= self.tenants.get(one.tenant, (_NOTHING, 0.0))[0]:
            return OVER_QUOTA
        return LEAST_WORTH if rank <= self.rank else None

    def after(self, gone: Sequence[Weighed]) -> "Cut":
        """What is left of it when these have gone for their tenants' quotas."""
        left = {tenant: most for tenant, (_, most) in self.tenants.items()}
        for one in gone:
            left[one.tenant] -= one.size
        tenants = {name: (rank, left[name]) for name, (rank, _) in self.tenants.items() if left[name] > 0}
        return self._replace(tenants=tenants)

    def of_tenants(self) -> "Cut":
        """What is left of it when there is room for the others."""
        return Cut(tenants=self.tenants)

    def as_json(self) -> dict[str, Any]:
        """For a cursor."""
        return {"stale": self.stale, "tenants": dict(self.tenants), "rank": self.rank}

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> "Cut":
        """What `as_json` gave."""
        tenants = {tenant: (_rank(*rank), float(most)) for tenant, (rank, most) in kept["tenants"].items()}
        return cls(bool(kept["stale"]), tenants, _rank(*kept["rank"]))


def rank_of(one: Weighed) -> Rank:
    """Where a live entry stands in the order."""
    return ORDER[one.seen.meta.keep], one.density, crc32(one.seen.name.raw)


def _rank(turn: int, value: float, number: int) -> Rank:
    return int(turn), float(value), int(number)


def cut_for(
    sample: Sample,
    need: float,
    excess: Mapping[str, float],
    now_ms: int,
    forced: Mapping[str, float] | None = None,
) -> Cut:
    """The least cut that frees so many bytes.

    Args:
        need: Bytes to be freed.
        excess: Bytes that encoded tenants have above their soft quotas: goes before others' if anything has to.
        forced: Bytes that they have above their hard quotas: goes even if nothing else had to.
    """
    each = sample.stands_for
    living = [one for one in sample.weighed if not one.seen.dead()]
    left = need - each * sum(one.size for one in sample.weighed if one.seen.dead())
    stale = False
    if left > 0:
        old = [one for one in living if _is_stale(one, now_ms) and _may_go(one)]
        stale = bool(old)
        left -= each * sum(one.size for one in old)
        living = [one for one in living if not (_is_stale(one, now_ms) and _may_go(one))]
    over = dict(forced or {})
    if left > 0:
        over = {**over, **{tenant: max(more, over.get(tenant, 0)) for tenant, more in excess.items()}}
    tenants = {}
    for tenant, more in over.items():
        theirs = [one for one in living if one.tenant == tenant]
        rank, freed = _reach(theirs, _in_sample(more, each))
        tenants[tenant] = rank, more
        left -= freed * each
    rest = [one for one in living if rank_of(one) > tenants.get(one.tenant, (_NOTHING, 0.0))[0]]
    rank, _ = _reach(rest, _in_sample(left, each))
    return Cut(stale, tenants, rank)


def _in_sample(wanted: float, each: float) -> float:
    """Those bytes of all entries as bytes of the sample; if it met none, all may be needed."""
    if each:
        return wanted / each
    return math.inf if wanted > 0 else 0.0


def _reach(entries: Sequence[Weighed], wanted: float) -> tuple[Rank, float]:
    """The rank up to which those bytes of the sample go, and how many go by it."""
    freed, rank = 0.0, _NOTHING
    for one in sorted(filter(_may_go, entries), key=rank_of):
        if freed >= wanted:
            return rank, freed
        freed += one.size
        rank = rank_of(one)
    if wanted > freed:  # the sample has no more: all that may go does
        return _ALL, freed
    return rank, freed


def _may_go(one: Weighed) -> bool:
    return one.seen.meta.keep != Turn.NEVER


def _is_stale(one: Weighed, now_ms: int) -> bool:
    return 0 < one.seen.meta.soft_ms <= now_ms
