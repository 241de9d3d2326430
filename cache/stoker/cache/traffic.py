"""Hits and misses of the whole fleet by tenant and by family of keys, and a sample of the keys themselves.

A *family* is a key up to its first ':', which is what the keys of one template have in common. Counting costs a dict
lookup a read; every few seconds one reader of a process carries counts and sample to Redis. What is left when a cache
is closed, or Python ends, follows. What a process had not flushed when it was killed is lost.
"""

import logging
import os
import time
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from stoker.cache import hot
from stoker.cache.errors import CacheUnavailable
from stoker.cache.programs import Program
from stoker.cache.tenancy import tenant_field, tenant_of
from stoker.cache.wire import Exchange, Operation

log = logging.getLogger(__name__)
FLUSH_EVERY_S = 5.0
FULL_EVERY_S = 1.0
"""The same of a sample that is full: a busy process would have to throw half of it away, again and again."""
KEPT_S = 30 * 86_400
"""How long counts outlive the last flush."""
MOST_GROUPS = 1000
"""Pairs of tenant and family that are told apart; what comes later counts as `other`."""
OTHER = "other"

Group = tuple[str | None, str]


def family_of(key: str) -> str:
    """What the keys of one template have in common."""
    return key.partition(":")[0]


class Counts(NamedTuple):
    """Reads answered from the cache, and not."""

    hits: int
    misses: int


class Unflushed(NamedTuple):
    """What is added to the fleet's: counts, and a sample of the keys that were read."""

    groups: Mapping[Group, Counts]
    sample: hot.Report | None


class Traffic:
    """Counts of this process. `shared`: there is a fleet to add them to, and to learn from which keys are hot."""

    def __init__(self, *, shared: bool) -> None:
        self._shared = shared
        self.forked()
        _TRAFFIC.add(self)

    def forked(self) -> None:
        """Begin at zero: what a parent has counted it flushes itself."""
        self._groups: dict[Group, list[int]] = {}
        self._flushed_at = time.monotonic()
        self._sample = hot.Sample()
        self._left = 1

    def note(self, tenant_id: str | None, key: str, hit: bool, times: int = 1) -> bool:
        """Count reads, as a rule one. Returns whether it is time to add the counts to the fleet's."""
        group = tenant_id, key.partition(":")[0]
        (self._groups.get(group) or self._admit(group))[0 if hit else 1] += times
        if not self._shared:
            return False
        self._left -= times
        while self._left <= 0:
            self._left += self._sample.add((tenant_id, key))
        return self._is_due()

    def note_many(self, tenant_id: str | None, keys: Sequence[str], hits: Collection[str]) -> bool:
        """As `note`, of several reads of one tenant; `hits` are some of the keys."""
        if not keys:
            return False
        family, more, together = f"{keys[0].partition(':')[0]}:", len(keys) - 1, "\0".join(keys)
        if together.count(f"\0{family}") == more == together.count("\0"):  # all, as a rule, and seen at once
            counts = self.counts_of(tenant_id, family)
            counts[0] += len(hits)
            counts[1] += len(keys) - len(hits)
        else:
            for key in keys:
                self.counts_of(tenant_id, key)[0 if key in hits else 1] += 1
        if not self._shared:
            return False
        at = max(self._left, 1) - 1
        while at < len(keys):
            at += self._sample.add((tenant_id, keys[at]))
        self._left = at + 1 - len(keys)
        return self._is_due()

    def _is_due(self) -> bool:
        waited = time.monotonic() - self._flushed_at
        return waited >= FLUSH_EVERY_S or (waited >= FULL_EVERY_S and self._sample.thinned)

    def counts_of(self, tenant_id: str | None, key: str) -> list[int]:
        """Hits and misses of the key's family, to be added to; without a fleet for as long as the process lives."""
        group = tenant_id, key.partition(":")[0]
        return self._groups.get(group) or self._admit(group)

    def _admit(self, group: Group) -> list[int]:
        if len(self._groups) >= MOST_GROUPS:
            group = None, OTHER
        return self._groups.setdefault(group, [0, 0])

    def take(self) -> Unflushed | None:
        """What is to be added to the fleet's, None if there is nothing, or no fleet. All begins at zero."""
        if not self._shared or not self._groups:
            return None
        self._flushed_at = time.monotonic()
        groups, self._groups = self._groups, {}
        counted = {group: Counts(*counts) for group, counts in groups.items()}
        sample = self._sample.take()
        self._left = self._sample.next()
        return Unflushed(counted, sample)

    def flush(self, add: Callable[[Unflushed], Operation[None]]) -> Program[None]:
        """Add to the fleet's, if there is one. Without its server the counts are kept for the next time."""
        unflushed = self.take()
        if unflushed is None:
            return
        try:
            yield add(unflushed)
        except CacheUnavailable as error:
            log.debug("counts were not flushed: %s", error)
            for group, (hits, misses) in unflushed.groups.items():
                mine = self._groups.get(group) or self._admit(group)
                mine[0] += hits
                mine[1] += misses

    def totals(self) -> dict[Group, Counts]:
        """The counts as they stand."""
        return {group: Counts(*counts) for group, counts in tuple(self._groups.items())}


_TRAFFIC: "weakref.WeakSet[Traffic]" = weakref.WeakSet()


def _forked() -> None:
    for traffic in list(_TRAFFIC):
        traffic.forked()


os.register_at_fork(after_in_child=_forked)


def commands(key: bytes, samples_key: bytes, unflushed: Unflushed) -> Exchange:
    """What adds to the fleet's. A server without memory for it loses it: they are only counts."""
    adds = [
        ("HINCRBY", key, f"{kind}|{tenant_field(tenant)}|{family}", count)
        for (tenant, family), counts in unflushed.groups.items()
        for kind, count in (("h", counts.hits), ("m", counts.misses))
        if count
    ]
    return (*adds, ("PEXPIRE", key, KEPT_S * 1000), *hot.commands(samples_key, unflushed.sample))


def flush(key: bytes, samples_key: bytes, unflushed: Unflushed) -> Operation[None]:
    """Add to the fleet's."""
    yield commands(key, samples_key, unflushed)


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
