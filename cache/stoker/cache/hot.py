"""Which keys are read most: a small random sample of one process's reads, and the reports of it that the fleet shares.

For `traffic`, which takes the sample, and `hot_reports`, which collects the reports; what is learned from them is kept
beside the jobs, by `stoker.tasks`. A read that is not sampled costs one subtraction.

Source: concise samples, in Gibbons and Matias, "New Sampling-Based Summary Statistics for Improving Approximate Query
Answers", SIGMOD 1998. Equal reads are one count; when the sample has grown to its bound, every read in it stays by the
toss of a coin, and from then on half as many are taken. So the sample is a uniform one at any time, whatever the keys
are, and two of them may be added up. How many reads are passed over is drawn at once, from the geometric distribution.
"""

import math
import threading
from collections.abc import Iterable
from random import Random
from typing import Annotated, Literal

import msgspec

from stoker.cache.errors import InvalidName
from stoker.cache.tenancy import check_key, tenant_field, tenant_of
from stoker.cache.wire import Exchange, Operation

Name = tuple[str | None, str]
Reads = dict[str | None, dict[str, int]]
"""Tenant to key to reads."""

MOST_POINTS = 1024
"""Reads in a sample, hence also keys."""
MOST_BYTES = 65_536
"""Of one report; above it the keys that were sampled least are left out."""
MOST_REPORTS = 200
"""That wait to be collected; of more the oldest are dropped, which makes the sample a smaller one."""
KEPT_MS = 600_000
"""How long reports wait that nobody collects."""

_Points = Annotated[int, msgspec.Meta(ge=1, le=2**31)]


class Report(msgspec.Struct, frozen=True, array_like=True):
    """A sample on its way: how many reads each point of it stands for, and the points by encoded tenant and key."""

    version: Literal[1]
    every: Annotated[int, msgspec.Meta(ge=1, le=2**40)]
    points: dict[str, dict[str, _Points]]

    def reads(self) -> Reads:
        """The reads that it stands for.

        Raises:
            InvalidName: It holds a name that no key or tenant can have.
        """
        found: Reads = {}
        for field, keys in self.points.items():
            tenant = tenant_of(field)
            if tenant_field(tenant) != field:
                raise InvalidName("tenant", field, "is not encoded as tenants are")
            found[tenant] = {check_key(key): points * self.every for key, points in keys.items()}
        return found


class Sample:
    """A uniform sample of reads, bounded however many there are and whatever their keys.

    Threads add to it without a lock. A count that two of them lose harms nobody.

    Attributes:
        every: How many reads each point of it stands for.
        thinned: Whether it had to be made smaller since it began.
    """

    def __init__(self, random: Random | None = None) -> None:
        self._random = random or Random()  # not the app's: that it may have seeded
        self._lock = threading.Lock()
        self._begin(1)

    def _begin(self, every: int) -> None:
        self._points: dict[Name, int] = {}
        self._size = 0
        self._take_one_of(every)
        self.thinned = False

    def _take_one_of(self, every: int) -> None:
        """From now on; with it goes what turns the logarithm of a random number into how many are passed over."""
        self.every = every
        self._of_logarithm = 0.0 if every == 1 else 1.0 / math.log(1.0 - 1.0 / every)

    def add(self, name: Name) -> int:
        """Take a read into the sample. Returns which of those that follow is to be the next."""
        if (self._size >= MOST_POINTS or len(self._points) >= MOST_POINTS) and not self._thin():
            return self.next()
        points = self._points
        points[name] = points.get(name, 0) + 1
        self._size += 1
        return self.next()

    def next(self) -> int:
        """Which of the reads that follow is to be added: 1, the first of them, to any number."""
        return 1 + int(math.log(1.0 - self._random.random()) * self._of_logarithm)

    def _thin(self) -> bool:
        """Halve the sample. False: another thread is at it."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            toss = self._random.getrandbits
            stay = ((name, toss(points).bit_count()) for name, points in self._points.copy().items())
            self._points = {name: points for name, points in stay if points}
            self._size = sum(self._points.values())
            self._take_one_of(2 * self.every)
            self.thinned = True
            return True
        finally:
            self._lock.release()

    def take(self) -> Report | None:
        """The sample as it stands, None if it is empty. Another one begins, in the expectation of fewer reads."""
        with self._lock:
            every, points = self.every, self._points
            self._begin(max(1, every // 2))
        by_tenant: dict[str, dict[str, int]] = {}
        for (tenant, key), count in points.copy().items():
            by_tenant.setdefault(tenant_field(tenant), {})[key] = count
        return Report(1, every, by_tenant) if by_tenant else None


def pack(report: Report) -> bytes:
    """The report as it is sent, of `MOST_BYTES` at most."""
    packed = msgspec.msgpack.encode(report)
    while len(packed) > MOST_BYTES:
        report = _half(report)
        packed = msgspec.msgpack.encode(report)
    return packed


def _half(report: Report) -> Report:
    ranked = sorted(
        ((count, field, key) for field, keys in report.points.items() for key, count in keys.items()),
        reverse=True,
    )
    points: dict[str, dict[str, int]] = {}
    for count, field, key in ranked[: len(ranked) // 2]:
        points.setdefault(field, {})[key] = count
    return Report(report.version, report.every, points)


def unpack(packed: bytes) -> Reads | None:
    """The reads that a report stands for; None for what is no report of this version."""
    if len(packed) > MOST_BYTES:
        return None
    try:
        return msgspec.msgpack.decode(packed, type=Report).reads()
    except (msgspec.MsgspecError, InvalidName, ValueError, RecursionError):
        return None


def commands(key: bytes, report: Report | None) -> Exchange:
    """What sends a report to where it is collected."""
    if report is None:
        return ()
    return (
        ("RPUSH", key, pack(report)),
        ("LTRIM", key, -MOST_REPORTS, -1),
        ("PEXPIRE", key, KEPT_MS),
    )


def collect(key: bytes, most: int) -> Operation[list[bytes]]:
    """Take the oldest reports away, so that nobody else counts them."""
    answer = yield (("LPOP", key, most),)
    return list(answer.reply() or ())


def added_up(many: Iterable[Reads]) -> Reads:
    """The reads of several reports together."""
    sums: Reads = {}
    for reads in many:
        for tenant, keys in reads.items():
            mine = sums.setdefault(tenant, {})
            for key, count in keys.items():
                mine[key] = mine.get(key, 0) + count
    return sums
