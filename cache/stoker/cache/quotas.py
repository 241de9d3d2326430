"""What tenants may take of the cache's memory, and which of them have taken it all.

A *soft* quota says whose entries go first when room is needed; a *hard* one, besides, that nothing more is stored above
it. Operators' quotas are kept by `stoker.tasks`; on the cache's server stands a copy with the tenants that are full,
which whoever measures them writes and which expires without him, so a fleet without workers refuses nobody.
"""

import time
from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import TypeVar

import msgspec
from msgspec import Struct

from stoker.cache.errors import CacheUnavailable, ConfigError
from stoker.cache.tenancy import tenant_field, tenant_of
from stoker.cache.wire import Operation

Server = TypeVar("Server", bound=Hashable)
Amount = int | float
"""Bytes (int), or a share of the `room` that entries have (float above 0, at most 1)."""
LOOK_EVERY_S = 5.0
"""How old a process lets its knowledge of who is full become, when it stores."""
KEPT_MS = 120_000
"""How long the copy outlives whoever writes it."""
MOST_TENANTS = 10_000
WELL_BELOW = 0.9
"""Of a hard quota: who was full may store again below it. An eviction takes him as far below that again: if it stopped
there, samples would not tell on which side he is, and he might be refused for as long as nothing else of his goes.
"""


class Quota(Struct, frozen=True, omit_defaults=True):
    """Of one tenant; None: no bound.

    Attributes:
        soft: What is above it goes first when room is needed. None: `hard` is that too.
        hard: Above it nothing more is stored.
    """

    soft: Amount | None = None
    hard: Amount | None = None

    def __post_init__(self) -> None:
        for name, amount in (("soft", self.soft), ("hard", self.hard)):
            if amount is None:
                continue
            if isinstance(amount, bool) or not 0 < amount <= (1 if isinstance(amount, float) else 2**60):
                raise ConfigError(name, amount, "give bytes, or a share above 0 and up to 100 %")


class Quotas(Struct, frozen=True, omit_defaults=True):
    """Of all tenants. The shared key space has none.

    Attributes:
        default: Of every tenant that is not named.
        tenants: Tenant to its own.
    """

    default: Quota = Quota()
    tenants: dict[str, Quota] = {}

    @property
    def any(self) -> bool:
        """Whether there is a quota at all."""
        return bool(self.tenants) or self.default != Quota()

    @property
    def any_hard(self) -> bool:
        """Whether anybody has a hard one."""
        return any(quota.hard is not None for quota in (self.default, *self.tenants.values()))


class Over(Struct, frozen=True):
    """Encoded tenants with the bytes that they have above their soft quotas, and those to be freed for hard ones."""

    soft: dict[str, float]
    hard: dict[str, float]


def room(entries: int, used: int, limit: int, low_watermark: float) -> int:
    """Bytes that entries, which take so many now, have when an eviction has ended; 0: the server has no limit.

    Shares are of that, so that those of all tenants fit in if they come to one: of `maxmemory`, the server takes a part
    for itself, and an eviction keeps another one free.
    """
    return max(1, entries - used + int(limit * low_watermark)) if limit else 0


def over(quotas: Quotas, sizes: Mapping[str, int], room: int, full: Collection[str] = ()) -> Over:
    """Who has more than his quota, by what encoded tenants have; who was `full` before is so until `WELL_BELOW` it."""
    soft: dict[str, float] = {}
    hard: dict[str, float] = {}
    for tenant, quota in _each(quotas, sizes).items():
        size = sizes[tenant]
        most = bytes_of(quota.hard if quota.soft is None else quota.soft, room)
        if most is not None and size > most:
            soft[tenant] = size - most
        most = bytes_of(quota.hard, room)
        if most is not None and size > most * (WELL_BELOW if tenant in full else 1):
            hard[tenant] = size - most * WELL_BELOW**2
    return Over(soft, hard)


def portions(quotas: Quotas, sizes: Mapping[Server, Mapping[str, int]], room: int) -> dict[Server, Quotas]:
    """The quotas of each of several servers, by which they do together what one would that had all of it.

    Who has more than his quota is decided over all of them. On each he may then keep the same part of what he has
    there; nobody else has a quota on it.

    Args:
        sizes: What encoded tenants have on each, in bytes.
        room: That of all servers.
    """
    whole: dict[str, int] = {}
    for had in sizes.values():
        for tenant, size in had.items():
            whole[tenant] = whole.get(tenant, 0) + size
    found = over(quotas, whole, room)
    exceeded = {
        tenant: Quota(
            quota.soft if tenant in found.soft else None, quota.hard if tenant in found.hard else None
        )
        for tenant, quota in _each(quotas, {**found.soft, **found.hard}).items()
    }
    return {
        server: Quotas(
            tenants={
                str(tenant_of(tenant)): _part(quota, room, had[tenant] / whole[tenant])
                for tenant, quota in exceeded.items()
                if tenant in had
            }
        )
        for server, had in sizes.items()
    }


def _part(quota: Quota, room: int, part: float) -> Quota:
    bounds = (bytes_of(quota.soft, room), bytes_of(quota.hard, room))
    return Quota(*(None if most is None else max(1, round(most * part)) for most in bounds))


def _each(quotas: Quotas, tenants: Iterable[str]) -> dict[str, Quota]:
    """The quota of each of these encoded tenants."""
    named = {tenant_field(tenant): quota for tenant, quota in quotas.tenants.items()}
    return {tenant: named.get(tenant, quotas.default) if tenant else Quota() for tenant in tenants}


def bytes_of(amount: Amount | None, room: int) -> float | None:
    """An amount in bytes; None: no bound, as a share has where the server has no limit."""
    if isinstance(amount, float):
        return amount * room if room else None
    return amount


def amount(text: str) -> Amount:
    """What an operator writes: `15%`, `200MB`, `1GiB`, or bytes.

    Raises:
        ConfigError: It is none of these.
    """
    cleaned = text.strip().lower().replace(" ", "").replace("_", "")
    units = {"kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9, "b": 1}
    try:
        if cleaned.endswith("%"):
            return float(cleaned[:-1]) / 100
        for unit, size in units.items():
            if cleaned.endswith(unit):
                return int(float(cleaned.removesuffix(unit)) * size)
        return int(cleaned)
    except ValueError:
        raise ConfigError("quota", text, "write 15%, 200MB, 1GiB or a number of bytes") from None


class Copy(Struct, frozen=True):
    """What stands on the cache's server: the quotas, and the tenants (as in keys) that are full."""

    quotas: Quotas = Quotas()
    full: tuple[str, ...] = ()


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Copy).decode


def read(key: bytes) -> Operation[Copy]:
    """The copy; an empty one if there is none that can be read."""
    raw = (yield (("GET", key),)).reply()
    try:
        return _decode(raw) if raw is not None else Copy()
    except (msgspec.MsgspecError, ConfigError, ValueError):
        return Copy()


def write(key: bytes, copy: Copy, kept_ms: int = KEPT_MS) -> Operation[None]:
    """Write it for so long, or let go of it if there are no quotas."""
    if copy.quotas.any:
        (yield (("SET", key, _encode(copy), "PX", kept_ms),)).reply()
    else:
        (yield (("UNLINK", key),)).reply()


class Refusals:
    """Who may not store, as one process knows it. Looked up when something is stored, never when it is read."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._due = 0.0
        self._full: frozenset[str] = frozenset()

    @property
    def due(self) -> bool:
        """Whether that is to be looked up."""
        return time.monotonic() >= self._due

    @property
    def any(self) -> bool:
        """Whether somebody is full, or it is to be looked up whether anybody is."""
        return time.monotonic() >= self._due or bool(self._full)

    def refused(self, tenants: Iterable[str | None]) -> Operation[frozenset[str | None]]:
        """Those of the tenants that are full. A server that does not tell refuses nobody."""
        if self.due:
            self._due = time.monotonic() + LOOK_EVERY_S
            try:
                self._full = frozenset((yield from read(self._key)).full)
            except CacheUnavailable:
                self._full = frozenset()
        return self.among(tenants)

    def among(self, tenants: Iterable[str | None]) -> frozenset[str | None]:
        """Those of the tenants that were full when that was looked up."""
        if not self._full:
            return frozenset()
        return frozenset(one for one in tenants if tenant_field(one) in self._full)
