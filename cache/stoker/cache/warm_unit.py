"""Warming one unit of keys: ask the budget, take the leases, call the loaders, fill, and read a sample back.

For `warm`. Held keys are tried again until a killed load must have given them up, refused ones once.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from secrets import token_hex
from typing import Protocol, cast

from stoker.cache.backends import Backend, Write
from stoker.cache.budget import Budget, Limit, limit_of
from stoker.cache.errors import ValueNotSerializable
from stoker.cache.flight import Hit
from stoker.cache.leases import HeldLeases
from stoker.cache.loaders import Loaded, Loader, LoadKey, Match, Registry
from stoker.cache.programs import Landed, Program, Sleep
from stoker.cache.protocol import Busy, Lease, Name
from stoker.cache.warm_report import Outcome
from stoker.cache.work import Unit

ROUNDS = 3
"""How often a key is loaded whose loader raises."""
SAMPLE = 5
"""Written keys of each unit that are read back."""
PACED = 32
"""Keys of one round trip where a rate says that there is time: readers wait behind one of them for each lane."""
FEW = 20
"""Keys that are leased together if their loader is called for each of them."""
LIFETIMES = 16
"""TTLs among the values that one call of a loader returned: what is warmed together shall not expire so."""
_NAP_S = 0.25
"""Longest sleep between two looks whether the warm is over."""


Member = tuple[Lease, LoadKey]


class Lifetimes(Protocol):
    """How long a loader's values live: (ttl, soft ttl) in ms, 0 for never; jittered."""

    def __call__(self, loader: Loader) -> tuple[int, int]: ...


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
class _Share:
    """What a unit needs of one limit, and how that went."""

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
class UnitWarmer:
    """What warming a unit takes.

    Attributes:
        leases: Keeps those of slow loads alive.
        lease: Seconds for which a killed loader may block a key.
        limits: Of the whole warm, besides those of its loaders.
    """

    backend: Backend
    registry: Registry
    leases: HeldLeases
    lifetimes: Lifetimes
    lease: float
    budget: Budget
    limits: Sequence[Limit] = ()

    def warm(self, unit: Unit, crew: Crew) -> Program[Outcome]:
        """Warm the keys of a unit, those that are loaded one by one a few at a time: their leases do not last for ever.

        What may be asked for is settled before any lease is taken: nobody waits for a waiting warmer.
        """
        found = self.registry.find_all([key for _, key in unit.names])
        run = _Run(self, unit, crew)
        yield from run.without_loader(
            [name for name, match in zip(unit.names, found, strict=True) if not match]
        )
        for names, matches in _slices(unit.names, found):
            if crew.over:
                raise OverError
            yield from self._within_limits(run, names, matches)
        return run.outcome

    def _within_limits(self, run: "_Run", names: Sequence[Name], matches: Sequence[Match]) -> Program[None]:
        shares = self._shares(matches)
        token = token_hex(8)
        try:
            for share in shares.values():
                while wait := self.budget.ask(share.limit, token, share.keys):
                    yield from _nap(wait, run.crew)
                    if run.crew.over:
                        raise OverError
                share.granted = True
            yield from run.lease_and_fill(names, matches, shares)
        finally:
            rests = [share.tell(self.budget, token) for share in shares.values() if share.granted]
        yield from _nap(max(rests, default=0.0), run.crew)

    def _shares(self, matches: Sequence[Match]) -> dict[str, _Share]:
        """By the owner of each limit, in an order that is everybody's: two warmers never wait for each other."""
        shares = {limit.owner: _Share(limit, len(matches)) for limit in self.limits}
        for loader, _ in matches:
            share = shares.get(loader.owner)
            if share is None:
                share = shares[loader.owner] = _Share(limit_of(loader))
            share.keys += 1
        return dict(sorted(shares.items()))


class _Run:
    """One unit's way through its leases, loads and fills."""

    def __init__(self, by: UnitWarmer, unit: Unit, crew: Crew) -> None:
        self._by = by
        self._unit = unit
        self.crew = crew
        self.outcome = Outcome()

    def without_loader(self, names: Sequence[Name]) -> Program[None]:
        """Keys that somebody may have set: they are fresh, or have failed."""
        for tenant_id in dict.fromkeys(tenant_id for tenant_id, _ in names):
            keys = [key for tenant, key in names if tenant == tenant_id]
            hits = yield self._by.backend.read_many(tenant_id, keys)
            for key in keys:
                if key in hits:
                    self.outcome.count("fresh")
                else:
                    reason = self._by.registry.why_not(key) or "no loader is registered for it"
                    self.outcome.fail(key, reason)

    def lease_and_fill(
        self, names: Sequence[Name], matches: Sequence[Match], shares: Mapping[str, _Share]
    ) -> Program[None]:
        """Lease the keys, load those that are ours to load, and store what came."""
        page = PACED if any(share.limit.rate is not None for share in shares.values()) else len(names)
        taken: list[tuple[Lease | Busy, Hit | None]] = []
        for first in range(0, len(names), page):
            taken += yield self._by.backend.acquire(names[first : first + page])
        parts, spare = self._to_load(names, matches, taken)
        if spare:
            yield self._by.backend.release(spare)
        with self._by.leases.holding([lease for _, members in parts.values() for lease, _ in members]):
            for loader, members in parts.values():
                for group in _by_unique_key(members):
                    fills = yield from self._load(loader, group, shares)
                    written: list[Lease] = []
                    for first in range(0, len(fills), page):
                        written += yield from self._fill(fills[first : first + page])
                    yield from self._read_back(written[:: max(1, len(written) // SAMPLE)])

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
        since = self._unit.since
        if since and time.time() - since >= 1.5 * self._by.lease:
            self.outcome.count("busy", len(busy))
        else:
            self.outcome.held += busy
        return parts, spare

    def _load(
        self, loader: Loader, members: Sequence[Member], shares: Mapping[str, _Share]
    ) -> Program[list[tuple[Lease, Write]]]:
        """Call the loader. Returns what is to be stored; leases without a value are given back."""
        began = time.monotonic()
        loaded = yield from loader.load([key for _, key in members])
        took = time.monotonic() - began
        for owner in (loader.owner, *(limit.owner for limit in self._by.limits)):
            shares[owner].add(loaded, took)
        values, costs = loaded.values, loaded.cost_us
        fills: list[tuple[Lease, Write]] = []
        unused: list[Lease] = []
        each = -(-len(members) // LIFETIMES)
        for first in range(0, len(members), each):
            ttl_ms, soft_ms = self._by.lifetimes(loader)
            for lease, key in members[first : first + each]:
                name = key.key
                if name in values:
                    tags = loader.tags_for(key.args)
                    fills.append(
                        (lease, Write(values[name], ttl_ms, soft_ms, tags, costs[name], loader.turn))
                    )
                else:
                    unused.append(lease)
                    self._without_value(lease, loaded.errors.get(name))
        if unused:
            yield self._by.backend.release(unused)
        return fills

    def _without_value(self, lease: Lease, error: Exception | None) -> None:
        if error is None:
            self.outcome.count("missing")
            return
        message = f"{type(error).__name__}: {error}"
        self.crew.trouble = lease.key, message
        if self._unit.round < ROUNDS - 1:
            self.outcome.failing.append(lease.name)
        else:
            self.outcome.fail(lease.key, message)

    def _fill(self, fills: list[tuple[Lease, Write]]) -> Program[list[Lease]]:
        """Store the values. Returns the leases of those that were stored."""
        stored: list[bool] = []
        while fills:
            try:
                stored = yield self._by.backend.fill(fills)
                break
            except ValueNotSerializable as error:  # nothing of the unit was sent: go on without that key
                bad = [lease for lease, _ in fills if lease.key == error.key]
                for lease in bad:
                    self.outcome.fail(lease.key, str(error))
                yield self._by.backend.release(bad)
                fills = [fill for fill in fills if fill[0].key != error.key]
        written = [lease for (lease, _), ok in zip(fills, stored, strict=True) if ok]
        refused = [lease.name for (lease, _), ok in zip(fills, stored, strict=True) if not ok]
        self.outcome.count("written", len(written))
        if self._unit.since or self._unit.round:
            self.outcome.count("refused", len(refused))
        else:
            self.outcome.held += refused
        return written

    def _read_back(self, sample: Sequence[Lease]) -> Program[None]:
        self.outcome.count("checked", len(sample))
        for tenant_id in dict.fromkeys(lease.tenant_id for lease in sample):
            keys = [lease.key for lease in sample if lease.tenant_id == tenant_id]
            self.outcome.count("readable", len((yield self._by.backend.read_many(tenant_id, keys))))


def _slices(
    names: Sequence[Name], found: Sequence[Match | None]
) -> Iterator[tuple[Sequence[Name], Sequence[Match]]]:
    """What is leased and loaded together: all keys of batch loaders, and a few of the others at a time."""
    if all(match is not None and match[0].many for match in found):
        yield names, cast("Sequence[Match]", found)
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
