"""Warming one unit of keys: ask the budget, take the leases, call the loaders, fill, and read a sample back.

For `warm`. Held keys are tried again until a killed load must have given them up, refused ones once.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from secrets import token_hex
from typing import Protocol

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
        self.trouble = ("", "")


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
        """Warm the keys of a unit.

        What may be asked for is settled before any lease is taken: nobody waits for a waiting warmer.
        """
        found = self.registry.find_all([key for _, key in unit.names])
        shares = self._shares(found)
        token = f"{unit.id}.{token_hex(6)}"
        run = _Run(self, unit, crew, shares)
        try:
            for share in shares.values():
                while wait := self.budget.ask(share.limit, token, share.keys):
                    yield from _nap(wait, crew)
                share.granted = True
            yield from run.lease_and_fill(found)
        finally:
            rests = [share.tell(self.budget, token) for share in shares.values() if share.granted]
        yield from _nap(max(rests, default=0.0), crew)
        return run.outcome

    def _shares(self, found: Sequence[Match | None]) -> dict[str, _Share]:
        """By the owner of each limit, in an order that is everybody's: two warmers never wait for each other."""
        shares = {limit.owner: _Share(limit, len(found)) for limit in self.limits}
        for match in found:
            if match is not None:
                owner = match[0].owner
                if owner not in shares:
                    shares[owner] = _Share(limit_of(match[0]))
                shares[owner].keys += 1
        return dict(sorted(shares.items()))


class _Run:
    """One unit's way through its leases, loads and fills."""

    def __init__(self, by: UnitWarmer, unit: Unit, crew: Crew, shares: Mapping[str, _Share]) -> None:
        self._by = by
        self._unit = unit
        self._crew = crew
        self._shares = shares
        self._fills: list[tuple[Lease, Write]] = []
        self._spare: list[Lease] = []
        self.outcome = Outcome()

    def lease_and_fill(self, found: Sequence[Match | None]) -> Program[None]:
        """Lease the keys, load those that are ours to load, and store what came."""
        taken = yield self._by.backend.acquire(self._unit.names)
        parts = self._to_load(found, taken)
        with self._by.leases.holding([lease for _, members in parts.values() for lease, _ in members]):
            for loader, members in parts.values():
                for group in _by_unique_key(members):
                    yield from self._load(loader, group)
            if self._spare:
                yield self._by.backend.release(self._spare)
            if self._fills:
                yield from self._fill()

    def _to_load(
        self, found: Sequence[Match | None], taken: Sequence[tuple[Lease | Busy, Hit | None]]
    ) -> dict[str, tuple[Loader, list[Member]]]:
        """By loader, what has neither a fresh value nor somebody else who loads it."""
        outcome = self.outcome
        busy: list[Name] = []
        parts: dict[str, tuple[Loader, list[Member]]] = {}
        for name, match, (lease, hit) in zip(self._unit.names, found, taken, strict=True):
            if hit is not None and not hit.stale:
                outcome.count("fresh")
                if isinstance(lease, Lease):
                    self._spare.append(lease)
            elif isinstance(lease, Busy):
                busy.append(name)
            elif match is None:
                self._spare.append(lease)
                reason = self._by.registry.why_not(name[1]) or "no loader is registered for it"
                outcome.fail(name[1], reason)
            else:
                loader, args = match
                part = parts.get(loader.owner)
                if part is None:
                    part = parts[loader.owner] = (loader, [])
                part[1].append((lease, LoadKey(name[1], args, name[0])))
        since = self._unit.since
        if since and time.time() - since >= 1.5 * self._by.lease:
            outcome.count("busy", len(busy))
        else:
            outcome.held += busy
        return parts

    def _load(self, loader: Loader, members: Sequence[Member]) -> Program[None]:
        """Call the loader, and split what came into what is to be stored and leases without a value."""
        began = time.monotonic()
        loaded = yield from loader.load([key for _, key in members])
        took = time.monotonic() - began
        for owner in (loader.owner, *(limit.owner for limit in self._by.limits)):
            self._shares[owner].add(loaded, took)
        values, costs = loaded.values, loaded.cost_us
        each = -(-len(members) // LIFETIMES)
        for first in range(0, len(members), each):
            ttl_ms, soft_ms = self._by.lifetimes(loader)
            for lease, key in members[first : first + each]:
                name = key.key
                if name in values:
                    tags = loader.tags_for(key.args)
                    self._fills.append((lease, Write(values[name], ttl_ms, soft_ms, tags, costs[name])))
                else:
                    self._without_value(lease, loaded.errors.get(name))

    def _without_value(self, lease: Lease, error: Exception | None) -> None:
        self._spare.append(lease)
        if error is None:
            self.outcome.count("missing")
            return
        message = f"{type(error).__name__}: {error}"
        self._crew.trouble = lease.key, message
        if self._unit.round < ROUNDS - 1:
            self.outcome.failing.append(lease.name)
        else:
            self.outcome.fail(lease.key, message)

    def _fill(self) -> Program[None]:
        fills = self._fills
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
        yield from self._read_back(written[:: max(1, len(written) // SAMPLE)])

    def _read_back(self, sample: Sequence[Lease]) -> Program[None]:
        self.outcome.count("checked", len(sample))
        for tenant_id in dict.fromkeys(lease.tenant_id for lease in sample):
            keys = [lease.key for lease in sample if lease.tenant_id == tenant_id]
            self.outcome.count("readable", len((yield self._by.backend.read_many(tenant_id, keys))))


def _nap(seconds: float, crew: Crew) -> Program[None]:
    """Sleep, unless the warm ends meanwhile."""
    while seconds > 0:
        if crew.over:
            raise OverError
        yield Sleep(min(seconds, _NAP_S))
        seconds -= _NAP_S


def _by_unique_key(members: Sequence[Member]) -> Iterator[Sequence[Member]]:
    """Split so that no part holds a key twice: a batch loader answers by key, and tenants may share one."""
    left = members
    while left:
        part = {key.key: (lease, key) for lease, key in reversed(left)}
        if len(part) == len(left):
            yield left
            return
        taken = {id(key) for _, key in part.values()}
        yield list(reversed(part.values()))
        left = [(lease, key) for lease, key in left if id(key) not in taken]
