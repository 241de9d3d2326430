"""Filling keys before anybody asks: leases first, then one load for many keys, then leased fills.

The same rules as a reader's load hold, so a warm never brings back what was invalidated under it. It may be killed
anywhere: finished batches are in the cursor, and keys whose leases a killed warmer left behind are tried again.
"""

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from stoker.cache.backends import Backend, Write
from stoker.cache.errors import InvalidName, ValueNotSerializable
from stoker.cache.flight import Hit
from stoker.cache.leases import HeldLeases
from stoker.cache.loaders import Loaded, Loader, LoadKey, Registry
from stoker.cache.programs import Program, Sleep, Steps
from stoker.cache.protocol import Busy, Lease, Name
from stoker.cache.steps import Step
from stoker.cache.tenancy import check_key, tenant_field

MOST_ERRORS = 10
SAMPLE = 5
"""Written keys of each batch that are read back."""
_AGAIN_S = 0.2

Keys = Iterable[str] | Mapping[str, Iterable[str]]


@dataclass(frozen=True, slots=True)
class WarmReport:
    """What a warm did; every key asked for is in exactly one of `written` to `failed`.

    Attributes:
        asked: Keys handled.
        written: Loaded and stored.
        fresh: Already there.
        busy: Being loaded by somebody else to the end.
        refused: Loaded, but invalidated or set meanwhile, twice.
        missing: The loader had no value.
        failed: The loader raised, no loader is registered, or the value cannot be encoded.
        checked, readable: Written keys that were read back, and those of them that were there.
        errors: The first few (key, message).
    """

    asked: int = 0
    written: int = 0
    fresh: int = 0
    busy: int = 0
    refused: int = 0
    missing: int = 0
    failed: int = 0
    checked: int = 0
    readable: int = 0
    errors: tuple[tuple[str, str], ...] = ()


class Policy(Protocol):
    """How long a loader's values live: (ttl, soft ttl) in ms, 0 for never."""

    def __call__(self, loader: Loader) -> tuple[int, int]: ...


@dataclass(slots=True)
class Warmer:
    """The parts of a cache that a warm needs."""

    backend: Backend
    registry: Registry
    leases: HeldLeases
    policy: Policy
    lease: float

    def steps(
        self, keys: Keys, tenant_id: str | None, batch: int, cursor: dict[str, Any] | None
    ) -> Steps[WarmReport]:
        """Warm, yielding after each batch."""
        names, total = _names(keys, tenant_id)
        state = _State.resume(cursor)
        for chunk in _chunks(itertools.islice(names, state.at, None), batch):
            yield from self._batch(state, chunk, first=True, last=False)
            state.at += len(chunk)
            yield state.step(total, last=False)
        deadline = time.monotonic() + 1.5 * self.lease
        while state.again:
            last = time.monotonic() >= deadline
            chunk, state.again = state.again[:batch], state.again[batch:]
            left = len(state.again)
            yield from self._batch(state, chunk, first=False, last=last)
            yield state.step(total, last=False)
            if len(state.again) == left + len(chunk):  # all still held, perhaps by a killed load
                yield Sleep(_AGAIN_S)
        yield state.step(total if total is not None else state.at, last=True)

    def _batch(self, state: "_State", names: Sequence[Name], *, first: bool, last: bool) -> Program[None]:
        """Warm some keys. Held ones are tried again until the last try, refused ones after their first."""
        outcome = yield self.backend.acquire(names)
        leased: list[Lease] = []
        spare: list[Lease] = []
        for name, (lease, hit) in zip(names, outcome, strict=True):
            if _is_fresh(hit):
                state.count(fresh=1)
                if isinstance(lease, Lease):
                    spare.append(lease)
            elif isinstance(lease, Busy):
                if last:
                    state.count(busy=1)
                else:
                    state.again.append(name)
            else:
                leased.append(lease)
        with self.leases.holding(leased):
            fills, unused = yield from self._load(state, leased)
            if spare or unused:
                yield self.backend.release([*spare, *unused])
            yield from self._fill(state, fills, first=first)

    def _load(
        self, state: "_State", leases: Sequence[Lease]
    ) -> Program[tuple[list[tuple[Lease, Write]], list[Lease]]]:
        """Load the leased keys, one loader after the other. Returns what to fill, and leases without a value."""
        groups: dict[int, tuple[Loader, list[tuple[Lease, LoadKey]]]] = {}
        fills: list[tuple[Lease, Write]] = []
        unused: list[Lease] = []
        for lease in leases:
            found = self.registry.find(lease.key)
            if found is None:
                reason = self.registry.why_not(lease.key) or "no loader is registered for it"
                state.fail(lease.key, reason)
                unused.append(lease)
                continue
            loader, args = found
            group = groups.setdefault(id(loader), (loader, []))
            group[1].append((lease, LoadKey(lease.key, args, lease.tenant_id)))
        for loader, members in groups.values():
            for part in _by_unique_key(members):
                loaded = yield from loader.load([key for _, key in part])
                self._sort(state, loader, part, loaded, fills, unused)
        return fills, unused

    def _sort(
        self,
        state: "_State",
        loader: Loader,
        members: Sequence[tuple[Lease, LoadKey]],
        loaded: Loaded,
        fills: list[tuple[Lease, Write]],
        unused: list[Lease],
    ) -> None:
        ttl_ms, soft_ms = self.policy(loader)
        for lease, key in members:
            if key.key in loaded.values:
                tags = loader.tags_for(key.args)
                cost = loaded.cost_us.get(key.key, 0)
                fills.append((lease, Write(loaded.values[key.key], ttl_ms, soft_ms, tags, round(cost))))
                continue
            unused.append(lease)
            error = loaded.errors.get(key.key)
            if error is None:
                state.count(missing=1)
            else:
                state.fail(key.key, f"{type(error).__name__}: {error}")

    def _fill(self, state: "_State", fills: list[tuple[Lease, Write]], *, first: bool) -> Program[None]:
        stored: list[bool] = []
        while fills:
            try:
                stored = yield self.backend.fill(fills)
                break
            except ValueNotSerializable as error:  # nothing of the batch was sent: go on without that key
                bad = [lease for lease, _ in fills if lease.key == error.key]
                for lease in bad:
                    state.fail(lease.key, str(error))
                yield self.backend.release(bad)
                fills = [fill for fill in fills if fill[0].key != error.key]
        written = [lease for (lease, _), ok in zip(fills, stored, strict=True) if ok]
        refused = [lease for (lease, _), ok in zip(fills, stored, strict=True) if not ok]
        state.count(written=len(written))
        if first:
            state.again += [(lease.tenant_id, lease.key) for lease in refused]
        else:
            state.count(refused=len(refused))
        sample = written[:: max(1, len(written) // SAMPLE)]
        readable = 0
        for lease in sample:
            readable += (yield self.backend.read(lease.tenant_id, lease.key)) is not None
        state.count(checked=len(sample), readable=readable)


@dataclass(slots=True)
class _State:
    """How far a warm is."""

    at: int = 0
    again: list[Name] = field(default_factory=list)
    report: WarmReport = WarmReport()

    @classmethod
    def resume(cls, cursor: dict[str, Any] | None) -> "_State":
        if not cursor:
            return cls()
        report = cursor["report"]
        errors = tuple((key, message) for key, message in report["errors"])
        again = [(tenant, key) for tenant, key in cursor["again"]]
        return cls(cursor["at"], again, WarmReport(**{**report, "errors": errors}))

    def count(self, **more: int) -> None:
        self.report = replace(
            self.report, **{name: getattr(self.report, name) + n for name, n in more.items()}
        )

    def fail(self, key: str, message: str) -> None:
        self.count(failed=1)
        if len(self.report.errors) < MOST_ERRORS:
            self.report = replace(self.report, errors=(*self.report.errors, (key, message)))

    def step(self, total: int | None, *, last: bool) -> Step[WarmReport]:
        report = replace(self.report, asked=self.at)
        cursor = {"at": self.at, "again": [list(name) for name in self.again], "report": asdict(report)}
        return Step(self.at - len(self.again), total, report.failed, cursor, report, last)


def _is_fresh(hit: Hit | None) -> bool:
    return hit is not None and not hit.stale


def _names(keys: Keys, tenant_id: str | None) -> tuple[Iterator[Name], int | None]:
    """The keys with their tenants, in order, and how many, if that is known."""
    if isinstance(keys, str):
        raise InvalidName("keys", keys, "give a list of keys, or a dict of tenant to keys, not one str")
    if isinstance(keys, Mapping):
        if tenant_id is not None:
            raise InvalidName("tenant_id", tenant_id, "the keys come by tenant already; leave it out")
        total = sum(len(group) for group in keys.values() if isinstance(group, Sized))
        sized = all(isinstance(group, Sized) for group in keys.values())
        names = ((tenant, check_key(key)) for tenant, group in keys.items() for key in group)
        for tenant in keys:
            tenant_field(tenant)
        return names, total if sized else None
    tenant_field(tenant_id)
    return ((tenant_id, check_key(key)) for key in keys), len(keys) if isinstance(keys, Sized) else None


def _chunks(names: Iterator[Name], size: int) -> Iterator[list[Name]]:
    while chunk := list(itertools.islice(names, size)):
        yield chunk


def _by_unique_key(members: Sequence[tuple[Lease, LoadKey]]) -> Iterator[Sequence[tuple[Lease, LoadKey]]]:
    """Split so that no part holds a key twice: a batch loader answers by key, and tenants may share one."""
    left = members
    while left:
        part = {member[1].key: member for member in reversed(left)}
        taken = {id(member) for member in part.values()}
        yield list(reversed(part.values()))
        left = [member for member in left if id(member) not in taken]
