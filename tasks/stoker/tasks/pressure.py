"""Memory pressure as the fleet sees it: looks by the clock, what follows from them, and warm plans that wait.

`watch` looks; what is evicted is `evict`'s business. An eviction is asked for as soon as memory is above the high mark,
or rises so fast that it will be within two more looks, or when a tenant is above its hard quota.
"""

import logging
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from stoker.cache import CacheMonitor, CacheUnavailable
from stoker.cache.pressure import Makeup, Node, Part
from stoker.cache.quotas import Quotas
from stoker.cache.traffic import Counts, Group
from stoker.tasks import send
from stoker.tasks.errors import NotSent, StateUnavailable
from stoker.tasks.pressure_store import Composition, Point, Row

if TYPE_CHECKING:
    from stoker.tasks.runtime import Runtime

log = logging.getLogger(__name__)

MAKEUP_EVERY_S = 30.0
"""Between two samples of the whole, unless hard quotas want one at each look."""
SAMPLE = 1000
_SHORTEST_S = 0.2
"""Two looks closer than this tell no slope."""
_LOST_AFTER = 6
"""Looks that may be missing before what they said does not hold any more."""
_OVERDUE_AFTER = 2
"""Looks that may be missing before a plan that runs looks itself."""
_LEAST_KEPT_S = 60.0
_MOST_ROWS = 100
PAUSE_S = 1.0
"""For which a plan waits before it looks again."""


def look(here: "Runtime") -> Point:
    """Look at the cache's server, tell the fleet who is full, write it down, and ask for an eviction if there is cause.

    Raises:
        CacheUnavailable, StateUnavailable: A server cannot be asked.
    """
    monitor = CacheMonitor(here.cache)
    last, quotas = here.pressure.last(), here.pressure.quotas()
    composition, full = _composition(here, monitor, quotas, last.full if last else ())
    point = point_of(
        monitor.get_node(),
        time.time(),
        last,
        here.cache.config.low_watermark,
        here.cache.config.high_watermark,
        full,
    )
    _tell(here, monitor, quotas, full)
    here.pressure.add(point, composition)
    if _wanted(here, point):
        _ask()
    return point


def _tell(here: "Runtime", monitor: CacheMonitor, quotas: Quotas, full: Iterable[str]) -> None:
    try:
        monitor.tell_quotas(quotas, full, kept_s(here))
    except CacheUnavailable as error:  # a node of a cluster; the others were looked at
        log.warning("nobody is told who is full: %s", error)


def point_of(
    node: Node, now: float, last: Point | None, low: float, high: float, full: Iterable[str] = ()
) -> Point:
    """What is written down of a look, given the one before and the two marks."""
    passed = now - last.at if last is not None else 0.0
    slope = evicting = expiring = 0.0
    shares, were_short = node.shares or {"": node.share}, last.short if last is not None else ()
    short = [name for name, share in shares.items() if share > (low if name in were_short else high)]
    if last is not None:
        slope, evicting, expiring = last.slope, last.evicting, last.expiring
        if passed >= _SHORTEST_S and node.missing == last.missing:  # else what is counted is not the same
            slope = (node.used_bytes - last.used) / passed
            evicting = max(0, node.evicted - last.evicted) / passed
            expiring = max(0, node.expired - last.expired) / passed
    return Point(
        now,
        node.used_bytes,
        node.limit_bytes,
        node.rss_bytes,
        node.fragmentation,
        node.client_bytes,
        node.keys,
        node.evicted,
        node.expired,
        slope,
        evicting,
        expiring,
        bool(short),
        tuple(full),
        max(node.shares.values(), default=0.0),
        tuple(short),
        node.missing,
    )


def _composition(
    here: "Runtime", monitor: CacheMonitor, quotas: Quotas, were_full: Iterable[str]
) -> tuple[Composition | None, list[str]]:
    """What the cache is made of, if that is due, and who is full, given who was before."""
    before = here.pressure.composition()
    due = before is None or time.time() - before.at >= MAKEUP_EVERY_S
    if not (due or quotas.any_hard):
        return None, []
    try:
        makeup = monitor.get_makeup(SAMPLE)
    except CacheUnavailable as error:  # the node of the map, which this process does not know yet
        log.warning("what the cache is made of is not known: %s", error)
        return None, list(were_full) if quotas.any_hard else []
    full = monitor.get_full(quotas, makeup, were_full) if quotas.any_hard else []
    return composition_of(makeup, _reads(monitor), time.time()), full


def _reads(monitor: CacheMonitor) -> Mapping[Group, Counts]:
    try:
        return monitor.get_reads()
    except CacheUnavailable as error:  # likewise
        log.warning("how entries are read is not known: %s", error)
        return {}


def composition_of(makeup: Makeup, reads: Mapping[tuple[str | None, str], Any], now: float) -> Composition:
    """What is written down of a sample: the largest of its parts, with how they are read."""
    tenants: dict[str, list[int]] = {}
    families: dict[str, list[int]] = {}
    for (tenant, family), counts in reads.items():
        for sums in (tenants.setdefault(tenant or "", [0, 0]), families.setdefault(family, [0, 0])):
            sums[0] += counts.hits
            sums[1] += counts.misses
    return Composition(
        now,
        makeup.sampled,
        makeup.entries,
        makeup.bytes,
        _rows({tenant or "": part for tenant, part in makeup.tenants.items()}, tenants),
        _rows(makeup.families, families),
        makeup.missing,
    )


def _rows(parts: Mapping[str, Part], reads: Mapping[str, list[int]]) -> tuple[Row, ...]:
    largest = sorted(parts.items(), key=lambda item: -item[1].bytes)[:_MOST_ROWS]
    return tuple(
        Row(name, part.bytes, part.entries, part.share, part.error, part.load_us, *reads.get(name, (0, 0)))
        for name, part in largest
    )


def _wanted(here: "Runtime", point: Point) -> bool:
    settings = here.settings
    if settings.beat.evict_every is None:
        return False
    if point.full or point.share > settings.high_watermark:
        return True
    high_in = point.full_in(settings.high_watermark)
    return high_in is not None and high_in < 2 * (settings.beat.watch_every or 0)


def _ask() -> None:
    try:
        send.evict()
    except NotSent as error:
        log.warning("no eviction could be asked for: %s; beat does so by the clock", error)


def kept_s(here: "Runtime") -> float:
    """How long what a look said holds."""
    return max(_LEAST_KEPT_S, _LOST_AFTER * (here.settings.beat.watch_every or 0.0))


def pressed(here: "Runtime") -> bool:
    """Whether the cache is under pressure, by the last look. Without one, or a state server to tell, it is not."""
    try:
        last = here.pressure.last()
    except StateUnavailable as error:
        log.warning("whether memory is short is not known: %s", error)
        return False
    return last is not None and last.pressed and time.time() - last.at < kept_s(here)


class Gate:
    """Lets a run of a warm plan go on, unless the cache is under pressure. Looks at most once a second.

    Who runs a plan may hold the very processes that `watch` and `evict` would need. So a run that is stopped ends, and
    the job goes on in another; and where the last look is overdue or said that memory is short, the run looks itself.
    """

    def __init__(self, here: "Runtime") -> None:
        self._here = here
        self._looked = float("-inf")
        self._shut = False

    def is_shut(self) -> bool:
        """Whether to stop. Raises CacheUnavailable: the cache's server cannot be asked."""
        now = time.monotonic()
        if now - self._looked >= PAUSE_S and not self._here.settings.job.warm_under_pressure:
            self._looked, self._shut = now, self._is_pressed()
        return self._shut

    def _is_pressed(self) -> bool:
        try:
            last = self._here.pressure.last()
            if last is not None and (last.pressed or self._is_overdue(last)):
                return look(self._here).pressed
        except StateUnavailable as error:
            log.warning("whether memory is short is not known: %s", error)
        return False

    def _is_overdue(self, last: Point) -> bool:
        every = self._here.settings.beat.watch_every
        return every is not None and time.time() - last.at > _OVERDUE_AFTER * every
