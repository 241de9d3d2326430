"""What becomes of a slice of a unit: take the leases, call the loaders, fill, and read a sample back.

For `warm_unit`. Usually all keys of a slice belong to one batch loader, and none is stored: they are handled together,
see `batch`. Otherwise they are handled key by key. Keys that somebody else is loading are tried again, until even a
killed load must have given them up; refused keys are tried again once.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from typing import Protocol

from stoker.cache.backends import Backend, Write
from stoker.cache.batch import Batch, BatchFill
from stoker.cache.budget import Budget, Limit
from stoker.cache.errors import ValueNotSerializable
from stoker.cache.flight import Hit
from stoker.cache.leases import HeldLeases
from stoker.cache.loaders import Loaded, Loader, LoadKey, Match, Registry
from stoker.cache.pace import Pace
from stoker.cache.programs import Program
from stoker.cache.protocol import Busy, Lease, Name
from stoker.cache.warm_report import Outcome
from stoker.cache.work import Unit

ROUNDS = 3
"""How often a key is loaded whose loader raises."""
SAMPLE = 5
"""Written keys of each unit that are read back."""
QUICK_S = 0.03
"""So long may the call of a loader take of whose keys there is no lease."""
LIFETIMES = 16
"""TTLs among the values that one call of a loader returned: what is warmed together shall not expire so."""
LIGHT = 4
"""Keys of a batch that are begun take so many times less of a server than those that are stored."""
_first, _second = itemgetter(0), itemgetter(1)

Member = tuple[Lease, LoadKey]


class Lifetimes(Protocol):
    """How long a loader's values live: (ttl, soft ttl) in ms, 0 for never; jittered."""

    def __call__(self, loader: Loader) -> tuple[int, int]: ...


@dataclass(slots=True)
class Share:
    """What a slice needs of one limit, and how that went."""

    limit: Limit
    keys: int = 0
    granted: bool = False
    loaded: int = 0
    failed: int = 0
    seconds: float = 0.0

    def add(self, loaded: Loaded, seconds: float) -> None:
        self.loaded += len(loaded.values) + len(loaded.missing)
        self.failed += len(loaded.errors)
        self.seconds += seconds

    def tell(self, budget: Budget, unit: str) -> float:
        return budget.done(
            *(self.limit, unit),
            asked=self.keys,
            loaded=self.loaded,
            failed=self.failed,
            seconds=self.seconds,
        )


@dataclass(slots=True)
class Means:
    """What a warm works with; its lanes share it.

    Attributes:
        leases: Keeps those of slow loads alive.
        pace: When the round trips within a limit may begin.
        lease: Seconds for which a killed loader may block a key.
        limits: Of the whole warm, besides those of its loaders.
        expects_absent: Whether the last slice found nothing: the next is likely to find nothing either.
        expects_quick: Whether the last call of a loader was soon over. Where it is not, who misses a key had better
            wait for it, by its lease, than load it too.
    """

    backend: Backend
    registry: Registry
    leases: HeldLeases
    pace: Pace
    lifetimes: Lifetimes
    lease: float
    limits: Sequence[Limit] = ()
    expects_absent: bool = True
    expects_quick: bool = True


class SliceRun:
    """The slices of one unit, one after the other; what becomes of them.

    Attributes:
        trouble: The last (key, message) of a loader that raised.
    """

    def __init__(self, means: Means, unit: Unit) -> None:
        self._means = means
        self._backend = means.backend
        self._unit = unit
        self.outcome = Outcome()
        self.trouble: tuple[str, str] | None = None
        self._limit: Limit | None = None

    def without_loader(self, names: Sequence[Name]) -> Program[None]:
        """Keys that somebody may have set: they are fresh, or have failed."""
        for tenant_id in dict.fromkeys(tenant_id for tenant_id, _ in names):
            keys = [key for tenant, key in names if tenant == tenant_id]
            hits = yield self._backend.read_many(tenant_id, keys)
            for key in keys:
                if key in hits:
                    self.outcome.count("fresh")
                else:
                    reason = self._means.registry.why_not(key) or "no loader is registered for it"
                    self.outcome.fail(key, reason)

    def lease_and_fill(
        self, names: Sequence[Name], matches: Sequence[Match], shares: Mapping[str, Share]
    ) -> Program[None]:
        """Lease the keys, load those that are ours to load, and store what came."""
        limits = [share.limit for share in shares.values() if share.limit.rate is not None]
        self._limit = min(limits, key=lambda limit: limit.rate or 0.0, default=None)
        batches = yield from self._begin_absent(names, matches)
        if batches:
            yield from self._load_absent(batches, names, matches, shares)
        else:
            yield from self._each(names, matches, shares)

    # -- all together ------------------------------------------------------------------------------------------

    def _begin_absent(self, names: Sequence[Name], matches: Sequence[Match]) -> Program[list[Batch]]:
        """Batches of the keys, if none of them is there and one loader loads them all; else nothing."""
        loader = matches[0][0]
        if not (self._means.expects_absent and self._means.expects_quick and loader.many):
            return []
        if len(set(map(_first, matches))) > 1:
            return []
        if len(set(map(_second, names))) < len(names):  # an answer by key could not tell the tenants apart
            return []
        batches: list[Batch] = []
        with self._means.pace.turn(self._limit) as turn:
            for page in turn.pages(len(names), LIGHT):
                yield from turn.wait()
                begun: list[Batch] | None = yield self._backend.begin_batches(names[page])
                self._means.expects_absent = begun is not None
                if begun is None:
                    return []
                batches += begun
        return batches

    def _load_absent(
        self,
        batches: Sequence[Batch],
        names: Sequence[Name],
        matches: Sequence[Match],
        shares: Mapping[str, Share],
    ) -> Program[None]:
        loader = matches[0][0]
        keys = [LoadKey(key, args, tenant) for (tenant, key), (_, args) in zip(names, matches, strict=True)]
        loaded = yield from self._call(loader, keys, shares)
        lifetimes = iter(self._lifetimes(loader, len(keys)))
        by_key = {key.key: key for key in keys}
        written: list[Name] = []
        with self._means.pace.turn(self._limit) as turn:
            for page in _pages(batches, turn.most(len(names))):
                yield from turn.wait()
                now = list(islice(lifetimes, sum(map(len, page))))
                filled = yield from self._fill_together(loader, page, by_key, loaded, now)
                if filled is None:
                    members = [(lease, by_key[lease.key]) for batch in page for lease in batch]
                    fills = yield from self._to_fill(loader, members, loaded, now)
                    filled = yield from self._fill(fills)
                written += filled
        yield from self._read_back(written)

    def _fill_together(
        self,
        loader: Loader,
        page: Sequence[Batch],
        keys: Mapping[str, LoadKey],
        loaded: Loaded,
        lifetimes: Sequence[tuple[int, int]],
    ) -> Program[list[Name] | None]:
        """Store what was loaded; None, and nothing is stored, if one of the values needs a look of its own."""
        if loaded.errors or loaded.missing:
            return None
        fills: list[BatchFill] = []
        for batch in page:
            values = [loaded.values[key] for _, key in batch.names]
            now, lifetimes = lifetimes[: len(values)], lifetimes[len(values) :]
            if loader.tags_vary:
                tags = [loader.tags_for(keys[key].args) for _, key in batch.names]
            else:
                tags = [loader.tags] * len(values)
            cost_us = loaded.cost_us[batch.names[0][1]]
            fills.append(BatchFill(batch, values, now, tags, cost_us, loader.turn))
        stored = yield self._backend.fill_batches(fills)
        if stored is None:
            return None
        return self._settled([name for batch in page for name in batch.names], stored)

    # -- key by key --------------------------------------------------------------------------------------------

    def _each(
        self, names: Sequence[Name], matches: Sequence[Match], shares: Mapping[str, Share]
    ) -> Program[None]:
        taken: list[tuple[Lease | Busy, Hit | None]] = []
        with self._means.pace.turn(self._limit) as turn:
            for page in turn.pages(len(names)):
                yield from turn.wait()
                taken += yield self._backend.acquire(names[page])
            parts, spare = self._to_load(names, matches, taken)
            for page in turn.pages(len(spare)):
                yield from turn.wait()
                yield self._backend.release(spare[page])
        with self._means.leases.holding([lease for _, members in parts.values() for lease, _ in members]):
            for loader, members in parts.values():
                for group in _by_unique_key(members):
                    loaded = yield from self._call(loader, [key for _, key in group], shares)
                    fills = yield from self._to_fill(
                        loader, group, loaded, self._lifetimes(loader, len(group))
                    )
                    written: list[Name] = []
                    with self._means.pace.turn(self._limit) as turn:
                        for page in turn.pages(len(fills)):
                            yield from turn.wait()
                            written += yield from self._fill(fills[page])
                    yield from self._read_back(written)

    def _to_load(
        self,
        names: Sequence[Name],
        matches: Sequence[Match],
        taken: Sequence[tuple[Lease | Busy, Hit | None]],
    ) -> tuple[dict[str, tuple[Loader, list[Member]]], list[Lease]]:
        """By loader, what has neither a fresh value nor somebody else who loads it; and leases of what is fresh."""
        busy: list[Name] = []
        spare: list[Lease] = []
        parts: dict[str, tuple[Loader, list[Member]]] = {}
        for name, (loader, args), (lease, hit) in zip(names, matches, taken, strict=True):
            if hit is not None and not hit.stale:
                self.outcome.count("fresh")
                if isinstance(lease, Lease):
                    spare.append(lease)
            elif isinstance(lease, Busy):
                busy.append(name)
            else:
                part = parts.get(loader.owner)
                if part is None:
                    part = parts[loader.owner] = (loader, [])
                part[1].append((lease, LoadKey(name[1], args, name[0])))
        self._means.expects_absent = not busy and all(hit is None for _, hit in taken)
        since = self._unit.since
        if since and time.time() - since >= 1.5 * self._means.lease:
            self.outcome.count("busy", len(busy))
        else:
            self.outcome.held += busy
        return parts, spare

    def _to_fill(
        self,
        loader: Loader,
        members: Sequence[Member],
        loaded: Loaded,
        lifetimes: Sequence[tuple[int, int]],
    ) -> Program[list[tuple[Lease, Write]]]:
        """What is to be stored; leases without a value are given back."""
        fills: list[tuple[Lease, Write]] = []
        unused: list[Lease] = []
        for (lease, key), (ttl_ms, soft_ms) in zip(members, lifetimes, strict=True):
            if key.key in loaded.values:
                value, cost_us = loaded.values[key.key], loaded.cost_us[key.key]
                tags = loader.tags_for(key.args)
                fills.append((lease, Write(value, ttl_ms, soft_ms, tags, cost_us, loader.turn)))
            else:
                unused.append(lease)
                self._without_value(lease, loaded.errors.get(key.key))
        if unused:
            yield self._backend.release(unused)
        return fills

    def _without_value(self, lease: Lease, error: Exception | None) -> None:
        if error is None:
            self.outcome.count("missing")
            return
        message = f"{type(error).__name__}: {error}"
        self.trouble = lease.key, message
        if self._unit.round < ROUNDS - 1:
            self.outcome.failing.append(lease.name)
        else:
            self.outcome.fail(lease.key, message)

    def _fill(self, fills: list[tuple[Lease, Write]]) -> Program[list[Name]]:
        """Store the values. Returns the names of those that were stored."""
        stored: list[bool] = []
        while fills:
            try:
                stored = yield self._backend.fill(fills)
                break
            except ValueNotSerializable as error:  # nothing of the page was sent: go on without that key
                bad = [lease for lease, _ in fills if lease.key == error.key]
                for lease in bad:
                    self.outcome.fail(lease.key, str(error))
                yield self._backend.release(bad)
                fills = [fill for fill in fills if fill[0].key != error.key]
        return self._settled([lease.name for lease, _ in fills], stored)

    # -- both --------------------------------------------------------------------------------------------------

    def _call(self, loader: Loader, keys: Sequence[LoadKey], shares: Mapping[str, Share]) -> Program[Loaded]:
        began = time.monotonic()
        loaded = yield from loader.load(keys)
        took = time.monotonic() - began
        self._means.expects_quick = took < QUICK_S
        for owner in (loader.owner, *(limit.owner for limit in self._means.limits)):
            shares[owner].add(loaded, took)
        return loaded

    def _lifetimes(self, loader: Loader, size: int) -> list[tuple[int, int]]:
        """A lifetime for each of so many values; some in a row share one."""
        each = -(-size // LIFETIMES)
        return [life for _ in range(0, size, each) for life in [self._means.lifetimes(loader)] * each][:size]

    def _settled(self, names: Sequence[Name], stored: Sequence[bool]) -> list[Name]:
        """Count what was stored, and return it; try once more what was refused."""
        if all(stored):
            written, refused = list(names), []
        else:
            written = [name for name, ok in zip(names, stored, strict=True) if ok]
            refused = [name for name, ok in zip(names, stored, strict=True) if not ok]
        self.outcome.count("written", len(written))
        if self._unit.since or self._unit.round:
            self.outcome.count("refused", len(refused))
        else:
            self.outcome.held += refused
        return written

    def _read_back(self, written: Sequence[Name]) -> Program[None]:
        sample = written[:: max(1, len(written) // SAMPLE)]
        self.outcome.count("checked", len(sample))
        for tenant_id in dict.fromkeys(tenant_id for tenant_id, _ in sample):
            keys = [key for tenant, key in sample if tenant == tenant_id]
            self.outcome.count("readable", len((yield self._backend.read_many(tenant_id, keys))))


def _pages(batches: Sequence[Batch], most: int) -> Iterator[list[Batch]]:
    """The batches, cut so that a page has so many keys at most."""
    page, room = [], most
    for batch in batches:
        first = 0
        while first < len(batch):
            page.append(batch.part(slice(first, first + room)))
            first += len(page[-1])
            room -= len(page[-1])
            if not room:
                yield page
                page, room = [], most
    if page:
        yield page


def _by_unique_key(members: Sequence[Member]) -> Iterator[Sequence[Member]]:
    """Split so that no part holds a key twice: a batch loader answers by key, and tenants may share one."""
    left = members
    while left:
        if len({key.key for _, key in left}) == len(left):
            yield left
            return
        part = {key.key: (lease, key) for lease, key in reversed(left)}
        taken = {id(key) for _, key in part.values()}
        yield list(reversed(part.values()))
        left = [(lease, key) for lease, key in left if id(key) not in taken]
