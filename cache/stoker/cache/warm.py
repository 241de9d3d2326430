"""Filling keys before anybody asks: leases first, then one load for many keys, then leased fills.

The same rules as a reader's load hold, so a warm never brings back what was invalidated under it. It may be killed
anywhere: finished batches are in the cursor, and keys whose leases a killed warmer left behind are tried again.
"""

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

from stoker.cache.backends import Backend, Write
from stoker.cache.budget import Budget, most_keys
from stoker.cache.errors import InvalidName, ValueNotSerializable
from stoker.cache.flight import Hit
from stoker.cache.leases import HeldLeases
from stoker.cache.loaders import Loaded, Loader, LoadKey, Registry
from stoker.cache.programs import Program, Sleep, Steps
from stoker.cache.protocol import Busy, Lease, Name
from stoker.cache.tenancy import check_key, tenant_field
from stoker.cache.warm_progress import Progress, WarmReport

N = TypeVar("N", bound=Name | InvalidName)
SAMPLE = 5
"""Written keys of each batch that are read back."""
_AGAIN_S = 0.2
_RETRY_S = 0.25
"""Pause before the keys whose loader raised are loaded again; it doubles."""

Keys = Iterable[str] | Iterable[tuple[str | None, str]] | Mapping[str, Iterable[str]]
"""Keys of one tenant, or (tenant, key) pairs, or keys by tenant. Of pairs, a malformed one fails alone."""


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
    budget: Budget

    def steps(
        self, keys: Keys, tenant_id: str | None, batch: int, cursor: dict[str, Any] | None
    ) -> Steps[WarmReport]:
        """Warm, yielding after each batch."""
        names, total = _names(keys, tenant_id)
        state = Progress.resume(cursor)
        if state.report.stopped:  # and was killed before it could say so
            names = iter(())
        for chunk in self._pages(itertools.islice(names, state.at, None), batch):
            yield from self._batch(state, state.usable(chunk), first=True, last=False)
            state.at += len(chunk)
            if state.too_many_failed():
                break
            yield state.step(total, last=False)
        yield from self._held(state, total, batch)
        while state.failing and not state.report.stopped:
            yield Sleep(_RETRY_S * 2**state.round)
            for part in self._pages(iter(state.next_round()), batch):
                yield from self._batch(state, part, first=False, last=False)
            yield state.step(total, last=False)
            yield from self._held(state, total, batch)
        for _, key in state.next_round():
            state.fail(key, "its loader raised")
        yield state.step(total if total is not None else state.at, last=True)

    def _held(self, state: Progress, total: int | None, batch: int) -> Steps[WarmReport]:
        """Try those keys again that somebody else was loading, or that were invalidated under the load."""
        deadline = time.monotonic() + 1.5 * self.lease
        while state.again:
            last = time.monotonic() >= deadline
            chunk = next(self._pages(iter(state.again), batch))
            state.again = state.again[len(chunk) :]
            left = len(state.again)
            yield from self._batch(state, chunk, first=False, last=last)
            yield state.step(total, last=False)
            if len(state.again) == left + len(chunk):  # all still held, perhaps by a killed load
                yield Sleep(_AGAIN_S)

    def _batch(self, state: Progress, names: Sequence[Name], *, first: bool, last: bool) -> Program[None]:
        """Warm some keys. Held ones are tried again until the last try, refused ones after their first.

        What the loaders may be asked for is settled before any lease is taken: nobody waits for a waiting warmer.
        """
        calls = self._calls_of(names)
        for call in calls.values():
            while wait := self.budget.ask(call.loader, call.keys):
                yield Sleep(wait)
            call.granted = True
        try:
            yield from self._lease_and_load(state, names, calls, first=first, last=last)
        finally:
            rest = [call.tell(self.budget) for call in calls.values() if call.granted]
        yield Sleep(max(rest, default=0.0))

    def _calls_of(self, names: Sequence[Name]) -> dict[str, "_Call"]:
        calls: dict[str, _Call] = {}
        for _, key in names:
            found = self.registry.find(key)
            if found is not None:
                calls.setdefault(found[0].name, _Call(found[0])).keys += 1
        return dict(sorted(calls.items()))  # two warmers that need the same loaders ask in the same order

    def _pages(self, names: Iterator[N], batch: int) -> Iterator[list[N]]:
        """The names in batches, none with more keys of a loader than it may be asked for at once."""
        page: list[N] = []
        counts: dict[str, int] = {}
        for name in names:
            found = self.registry.find(name[1]) if isinstance(name, tuple) else None
            page.append(name)
            full = len(page) >= batch
            if found is not None:
                counts[found[0].name] = counts.get(found[0].name, 0) + 1
                full = full or counts[found[0].name] >= most_keys(found[0], batch)
            if full:
                yield page
                page, counts = [], {}
        if page:
            yield page

    def _lease_and_load(
        self,
        state: Progress,
        names: Sequence[Name],
        calls: dict[str, "_Call"],
        *,
        first: bool,
        last: bool,
    ) -> Program[None]:
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
            fills, unused = yield from self._load(state, leased, calls)
            if spare or unused:
                yield self.backend.release([*spare, *unused])
            yield from self._fill(state, fills, first=first)

    def _load(
        self, state: Progress, leases: Sequence[Lease], calls: dict[str, "_Call"]
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
                began = time.monotonic()
                loaded = yield from loader.load([key for _, key in part])
                if loader.name in calls:
                    calls[loader.name].add(loaded, time.monotonic() - began)
                self._sort(state, loader, part, loaded, fills, unused)
        return fills, unused

    def _sort(
        self,
        state: Progress,
        loader: Loader,
        members: Sequence[tuple[Lease, LoadKey]],
        loaded: Loaded,
        fills: list[tuple[Lease, Write]],
        unused: list[Lease],
    ) -> None:
        for lease, key in members:
            if key.key in loaded.values:
                ttl_ms, soft_ms = self.policy(
                    loader
                )  # for each key: what is warmed together shall not expire so
                tags = loader.tags_for(key.args)
                cost = loaded.cost_us.get(key.key, 0)
                fills.append((lease, Write(loaded.values[key.key], ttl_ms, soft_ms, tags, round(cost))))
                continue
            unused.append(lease)
            error = loaded.errors.get(key.key)
            if error is None:
                state.count(missing=1)
            else:
                state.raised((key.tenant_id, key.key), error)

    def _fill(self, state: Progress, fills: list[tuple[Lease, Write]], *, first: bool) -> Program[None]:
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
class _Call:
    """What a batch asks of one loader, and how that went."""

    loader: Loader
    keys: int = 0
    granted: bool = False
    loaded: int = 0
    failed: int = 0
    seconds: float = 0.0

    def add(self, loaded: Loaded, seconds: float) -> None:
        self.loaded += len(loaded.values) + len(loaded.missing)
        self.failed += len(loaded.errors)
        self.seconds += seconds

    def tell(self, budget: Budget) -> float:
        return budget.done(
            self.loader, asked=self.keys, loaded=self.loaded, failed=self.failed, seconds=self.seconds
        )


def _is_fresh(hit: Hit | None) -> bool:
    return hit is not None and not hit.stale


def _names(keys: Keys, tenant_id: str | None) -> tuple[Iterator[Name | InvalidName], int | None]:
    """The keys with their tenants, in order, and how many, if that is known."""
    if isinstance(keys, str):
        raise InvalidName("keys", keys, "give a list of keys, or a dict of tenant to keys, not one str")
    if isinstance(keys, Mapping):
        if tenant_id is not None:
            raise InvalidName("tenant_id", tenant_id, "the keys come by tenant already; leave it out")
        groups = cast("Mapping[str, Iterable[str]]", keys)
        total = sum(len(group) for group in groups.values() if isinstance(group, Sized))
        sized = all(isinstance(group, Sized) for group in groups.values())
        names = ((tenant, check_key(key)) for tenant, group in groups.items() for key in group)
        for tenant in groups:
            tenant_field(tenant)
        return names, total if sized else None
    tenant_field(tenant_id)
    return (_name(key, tenant_id) for key in keys), len(keys) if isinstance(keys, Sized) else None


def _name(key: str | tuple[str | None, str], tenant_id: str | None) -> Name | InvalidName:
    if not isinstance(key, tuple):
        return tenant_id, check_key(key)
    if len(key) != 2:
        return InvalidName("key", key, "give (tenant, key)")
    tenant, name = key
    try:
        tenant_field(tenant)
        return tenant, check_key(name)
    except InvalidName as refused:
        return refused


def _by_unique_key(members: Sequence[tuple[Lease, LoadKey]]) -> Iterator[Sequence[tuple[Lease, LoadKey]]]:
    """Split so that no part holds a key twice: a batch loader answers by key, and tenants may share one."""
    left = members
    while left:
        part = {member[1].key: member for member in reversed(left)}
        taken = {id(member) for member in part.values()}
        yield list(reversed(part.values()))
        left = [member for member in left if id(member) not in taken]
