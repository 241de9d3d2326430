"""Hits and misses of the whole fleet: by tenant and by family of keys, flushed to the cache's server now and then.

A *family* is a key up to its first ':', which is what the keys of one template have in common. Counting costs a dict
lookup a read; every few seconds one reader of a process carries the counts to Redis. What a process had not flushed
when it was killed is lost.
"""

import logging
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from stoker.cache.errors import CacheUnavailable
from stoker.cache.programs import Program
from stoker.cache.tenancy import tenant_field, tenant_of
from stoker.cache.wire import Exchange, Operation

log = logging.getLogger(__name__)
FLUSH_EVERY_S = 5.0
KEPT_S = 30 * 86_400
"""How long counts outlive the last flush."""
MOST_GROUPS = 1000
"""Pairs of tenant and family that are told apart; what comes later counts as `other`."""
OTHER = "other"

Group = tuple[str | None, str]


class Counts(NamedTuple):
    """Reads answered from the cache, and not."""

    hits: int
    misses: int


class Traffic:
    """Counts of this process. `shared`: there is a fleet to add them to."""

    def __init__(self, *, shared: bool) -> None:
        self._shared = shared
        self._groups: dict[Group, list[int]] = {}
        self._flushed_at = time.monotonic()

    def note(self, tenant_id: str | None, key: str, hit: bool) -> bool:
        """Count one read. Returns whether it is time to add the counts to the fleet's."""
        group = tenant_id, key.partition(":")[0]
        counts = self._groups.get(group) or self._admit(group)
        counts[0 if hit else 1] += 1
        return self._shared and time.monotonic() - self._flushed_at >= FLUSH_EVERY_S

    def _admit(self, group: Group) -> list[int]:
        if len(self._groups) >= MOST_GROUPS:
            group = None, OTHER
        return self._groups.setdefault(group, [0, 0])

    def flush(self, add: Callable[[Mapping[Group, Counts]], Operation[None]]) -> Program[None]:
        """Add the counts to the fleet's, if there is one. Without its server they are kept for the next time."""
        if not self._shared or not self._groups:
            return
        self._flushed_at = time.monotonic()
        groups, self._groups = self._groups, {}
        try:
            yield add({group: Counts(*counts) for group, counts in groups.items()})
        except CacheUnavailable as error:
            log.debug("counts were not flushed: %s", error)
            for group, (hits, misses) in groups.items():
                mine = self._groups.get(group) or self._admit(group)
                mine[0] += hits
                mine[1] += misses

    def totals(self) -> dict[Group, Counts]:
        """The counts as they stand."""
        return {group: Counts(*counts) for group, counts in tuple(self._groups.items())}


def flush(key: bytes, groups: Mapping[Group, Counts]) -> Operation[None]:
    """Add counts to the fleet's. A server without memory for them loses them: they are only counts."""
    adds = [
        ("HINCRBY", key, f"{kind}|{tenant_field(tenant)}|{family}", count)
        for (tenant, family), counts in groups.items()
        for kind, count in (("h", counts.hits), ("m", counts.misses))
        if count
    ]
    commands: Exchange = (*adds, ("PEXPIRE", key, KEPT_S * 1000))
    yield commands


def fleet(key: bytes) -> Operation[dict[Group, Counts]]:
    """The fleet's counts."""
    answer = yield (("HGETALL", key),)
    sums: dict[Group, Counts] = {}
    for field, count in answer.reply().items():
        kind, _, rest = field.decode(errors="replace").partition("|")
        tenant, _, family = rest.partition("|")
        group = tenant_of(tenant), family
        before = sums.get(group, Counts(0, 0))
        more = Counts(int(count), 0) if kind == "h" else Counts(0, int(count))
        sums[group] = Counts(before.hits + more.hits, before.misses + more.misses)
    return sums
