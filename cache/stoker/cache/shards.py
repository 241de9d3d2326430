"""Which shard a key lives in, and the map: what all processes of a namespace must agree on before they share it.

Two processes that place keys or age marks differently would delete different keys, so the first to open a namespace
writes the map, and the others adopt the very same or are refused. Only `control` reads and writes it.
"""

import hashlib
import json
import os
import re
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from stoker.cache.errors import CacheUnavailable, ConfigError, InvalidName, PlacementMismatch
from stoker.cache.tenancy import tenant_field

_VERSION = 1
MOST_SHARDS = 1024
MOST_PINS = 1000
"""Since every process reads them all."""
CLUSTER_SHARDS = 64
"""On a cluster, unless another number is given: enough to be spread evenly over some ten nodes, and each invalidation
but of single keys goes to all of them."""


_LIFE = re.compile("[0-9a-f]{8}").fullmatch
_PROBES = tuple(f"probe:{n}" for n in range(16))


class Placement:
    """Spreads keys over shards.

    Args:
        num_shards: 1 to 1024. None: as many as the namespace has.
        key_func: Called with a key; its answer, modulo `num_shards`, is the key's shard. It must give the same answers
            in every process. Without it tenant and key are hashed together (CRC-32).
        pins: Tenants whose keys all live in one shard, and the number of that. None: those that the namespace has.
        default: `num_shards` of a new namespace, where none was given.

    Attributes:
        num_shards: How many there are; as long as the namespace's map is not known, what would be written there.

    Raises:
        ConfigError: `num_shards` or a pin is out of range, or `key_func` does not return an int.
    """

    def __init__(
        self,
        num_shards: int | None = None,
        key_func: Callable[[str], int] | None = None,
        pins: Mapping[str, int] | None = None,
        *,
        default: int = 1,
    ) -> None:
        if num_shards is not None and not _whole(num_shards, 1, MOST_SHARDS):
            raise ConfigError("num_shards", num_shards, f"give a whole number from 1 to {MOST_SHARDS}")
        self._given = {"num_shards": num_shards is not None, "pins": pins is not None}
        self._key_func = key_func
        self.num_shards = default if num_shards is None else num_shards
        self.pins = _checked_pins(pins or {}, self.num_shards)
        self._pinned = {tenant_field(tenant): shard for tenant, shard in self.pins}
        self.hash = "crc32" if key_func is None else "custom"
        self.probes = () if key_func is None else tuple(self._spread(("", key)) for key in _PROBES)

    @property
    def told(self) -> bool:
        """Whether any of it was given, and is not left to the namespace."""
        return self._key_func is not None or any(self._given.values())

    @property
    def knows_number(self) -> bool:
        """Whether the number of shards was given."""
        return self._given["num_shards"]

    def shard_of(self, field: str, key: str) -> int:
        """The shard of a key; `field` is its encoded tenant."""
        if self.num_shards == 1:
            return 0
        if self._pinned and (pinned := self._pinned.get(field)) is not None:
            return pinned
        return self._spread((field, key))

    def shards_of(self, field: str, keys: Sequence[str]) -> list[int]:
        """The same of each of a tenant's keys."""
        if self._key_func is not None or field in self._pinned:
            return [self.shard_of(field, key) for key in keys]
        begun, shards = zlib.crc32(f"{field}:".encode()), self.num_shards
        return [zlib.crc32(key.encode(), begun) % shards for key in keys]

    def pin_of(self, field: str) -> int | None:
        """The shard that all keys of a tenant live in, if it is pinned."""
        return self._pinned.get(field)

    def _spread(self, name: tuple[str, str]) -> int:
        if self._key_func is None:
            return zlib.crc32(":".join(name).encode()) % self.num_shards
        key = name[1]
        try:
            answer = self._key_func(key)
        except Exception as error:
            raise ConfigError(
                "shard_key_func", self._key_func, f"raised {type(error).__name__} for key {key!r}: {error}"
            ) from error
        if isinstance(answer, bool) or not isinstance(answer, int):
            raise ConfigError("shard_key_func", answer, f"must return an int; it did not for key {key!r}")
        return answer % self.num_shards

    def facts(self) -> dict[str, Any]:
        """What a map says of it."""
        return {name: getattr(self, name) for name in PLACING}

    def changed(self, num_shards: int, pins: Mapping[str, int]) -> "Placement":
        """The same function, over other shards.

        Raises:
            ConfigError: As the constructor; and where this process was told another number or other pins: it would be
                refused under the map that it has brought about.
        """
        other = Placement(num_shards, self._key_func, pins)
        for name, setting in (("num_shards", "STOKER_NUM_SHARDS"), ("pins", "STOKER_SHARD_PINS")):
            if self._given[name] and getattr(self, name) != getattr(other, name):
                raise ConfigError(
                    name,
                    _shown(getattr(other, name)),
                    f"this process was told {_shown(getattr(self, name))!r}, and would be refused afterwards; leave "
                    f"that out ({setting}), here and wherever else it is, so that processes go by the namespace's map",
                )
        other._given = self._given
        return other

    def named_in(self, stored: Mapping[str, Any], *, any_function: bool = False) -> "Placement":
        """The placement that a map says, with this one's function.

        Raises:
            PlacementMismatch: It was made with another function.
            CacheUnavailable: It makes no sense.
        """
        if not any_function and stored.get("hash") != self.hash:
            raise _mismatch("hash", self.hash, stored.get("hash"))
        try:
            other = Placement(stored["num_shards"], self._key_func, dict(stored["pins"]))
        except (ConfigError, InvalidName, LookupError, TypeError, ValueError) as error:
            raise CacheUnavailable("redis", f"the namespace's map makes no sense: {error}") from None
        if not any_function and stored.get("probes") != _plain(other.probes):
            raise _mismatch("probes", other.probes, stored.get("probes"))
        other._given = self._given
        return other

    def following(self, stored: Mapping[str, Any]) -> "Placement":
        """The placement that a map says, if this process may go by it.

        Raises:
            PlacementMismatch: It was told another one, or has another function.
            CacheUnavailable: The map makes no sense.
        """
        for name, given in self._given.items():
            ours = getattr(self, name)
            if given and stored.get(name) != _plain(ours):
                raise _mismatch(name, ours, stored.get(name))
        return self.named_in(stored)


PLACING = ("num_shards", "hash", "probes", "pins")
"""What of a map says where keys live."""


def _whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _checked_pins(pins: Mapping[str, int], num_shards: int) -> tuple[tuple[str, int], ...]:
    if not isinstance(pins, Mapping) or len(pins) > MOST_PINS:
        raise ConfigError("pins", pins, f"give at most {MOST_PINS} tenants with the number of a shard each")
    for tenant, shard in pins.items():
        if tenant is None:
            raise ConfigError("pins", {tenant: shard}, "name a tenant; the shared key space is spread")
        tenant_field(tenant)
        if not _whole(shard, 0, num_shards - 1):
            remedy = f"give a number from 0 to {num_shards - 1}, or another num_shards beside it"
            raise ConfigError("pins", {tenant: shard}, remedy)
    return tuple(sorted(pins.items()))


def _plain(value: Any) -> Any:
    """As it is when it was read from JSON."""
    return json.loads(json.dumps(value))


def _shown(value: Any) -> Any:
    """Pins as they were given."""
    return dict(value) if isinstance(value, tuple) and all(isinstance(one, tuple) for one in value) else value


@dataclass(frozen=True)
class Map:
    """What the processes of a namespace must agree on.

    Attributes:
        max_load_ms: The longest load whose value is stored.
        boot_fence: How server processes are told apart; two that differ would fence each other for ever.
        num_shards: Hash tags that keys are spread over.
        hash: The function that places a key: `crc32`, or `custom`.
        probes: Where a custom function places 16 fixed keys.
        pins: Tenant to shard.
        near_bound_ms: How long a near cache may lag.
    """

    max_load_ms: int
    boot_fence: str = "run_id"
    num_shards: int = 1
    hash: str = "crc32"
    probes: tuple[int, ...] = ()
    pins: tuple[tuple[str, int], ...] = ()
    near_bound_ms: int = 100

    def render(self, life: str) -> bytes:
        """The map as it stands in Redis: JSON with sorted names."""
        settings = {"version": _VERSION, "life": life, **asdict(self)}
        return json.dumps(settings, sort_keys=True, separators=(",", ":")).encode()

    @cached_property
    def fingerprint(self) -> bytes:
        """Eight hex digits that tell these settings from others."""
        return fingerprint(self.render(""))


def fingerprint(rendered: bytes) -> bytes:
    """That of a map rendered without a life."""
    return hashlib.sha256(rendered).hexdigest()[:8].encode()


class Resharded(CacheUnavailable):
    """The namespace has another placement by now, which this process may go by: begin the operation anew, by that."""

    def __init__(self, agreement: "Agreement", placement: Placement, stored: bytes) -> None:
        super().__init__("redis", "the namespace was resharded meanwhile; try again")
        self.agreement = agreement
        self.placement = placement
        self.stored = stored


class Agreement:
    """The map that rules, as one process knows it, as long as keys are placed in one way.

    A map has a life, a random name it gets when it is written: one that was lost and written again is another, and no
    control record of an earlier life is valid under it.

    Attributes:
        map: The settings of this process.
        placement: Where it has keys live.
        ruling: The map that rules (nothing, before it is known) and the digest that control records must carry: 8 hex
            digits of the settings, 8 of the life. Replaced as a pair, since threads share it.
    """

    patience_s = 30.0
    """How long a process that was told nothing waits for one that knows a lost map to write it again."""

    def __init__(self, wanted: Map, placement: Placement) -> None:
        self.map = replace(wanted, **placement.facts())
        self.placement = placement
        self.ruling = b"", self.map.fingerprint + b"0" * 8
        self._facts = json.loads(self.map.render(""))
        self._missed_since: float | None = None

    @property
    def guesses(self) -> bool:
        """Whether neither a map nor who made this process has told it how many shards there are."""
        return not (self.ruling[0] or self.placement.knows_number)

    def propose(self) -> bytes:
        """A map with a new life."""
        return self.map.render(os.urandom(4).hex())

    def accept(self, stored: bytes) -> None:
        """Go by the stored map, if its settings are this process's.

        Raises:
            Resharded: They are, but for the placement, which this process leaves to the map.
            PlacementMismatch: They are not.
            CacheUnavailable: It cannot be read.
        """
        if stored and stored == self.ruling[0]:
            return
        theirs = parsed(stored)
        self.check_settings(theirs)
        if not self.places_as(theirs):
            raise Resharded(self, self.placement.following(theirs), stored)
        self.ruling = stored, self.map.fingerprint + theirs["life"].encode()
        self._missed_since = None

    def check_settings(self, theirs: Mapping[str, Any]) -> None:
        """Refuse a map that says other settings, its placement apart."""
        for name in sorted(self._facts.keys() - {"life", *PLACING}, key=lambda name: name != "version"):
            if theirs.get(name) != self._facts[name]:
                raise _mismatch(name, self._facts[name], theirs.get(name))

    def places_as(self, theirs: Mapping[str, Any]) -> bool:
        """Whether a map has keys live where this process has."""
        return all(theirs.get(name) == self._facts[name] for name in PLACING)

    def check_standing(self, digest: bytes) -> None:
        """Refuse to write a map while a control record with this digest stands, unless it was of these settings.

        Raises:
            PlacementMismatch: This process was told otherwise.
            CacheUnavailable: It was told nothing, and one that knows the map may still write it again.
        """
        if digest[:8] == self.map.fingerprint:
            return
        remedy = (
            "it was lost, and what is stored was placed by other settings; start with those, or in a new "
            "namespace, or write another by `stoker reshard`"
        )
        if self.placement.told:
            raise PlacementMismatch("map", None, remedy)
        now = time.monotonic()
        if self._missed_since is None:
            self._missed_since = now
        if now - self._missed_since < self.patience_s:
            raise CacheUnavailable("redis", f"the namespace's map: {remedy}")


def parsed(stored: bytes) -> dict[str, Any]:
    """What a stored map says.

    Raises:
        CacheUnavailable: It cannot be read.
    """
    try:
        found = json.loads(stored)
        if _LIFE(found["life"]):
            return dict(found)
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    # No setting of this process is wrong, so reads miss instead of failing.
    raise CacheUnavailable(
        "redis", f"the namespace's map is not readable, delete it to begin cold: {stored[:80]!r}"
    )


def _mismatch(name: str, ours: object, theirs: object) -> PlacementMismatch:
    if name == "probes":
        return PlacementMismatch(
            "shard_key_func",
            ours,
            f"the process that opened the namespace got {theirs!r} for the same keys; use a function that gives the "
            "same answers in every process (hash() of a str does not, zlib.crc32 does)",
        )
    if name == "near_bound_ms":
        return PlacementMismatch(
            "near_bound",
            ours,
            f"the namespace is open with near_bound_ms={theirs!r}, for which its barriers wait and its copies are "
            "served; use that, or another namespace",
        )
    remedy = "use that, or another namespace"
    if name in PLACING:
        remedy = "use that, or leave it out to go by the map, which `stoker reshard` can change; or another namespace"
    return PlacementMismatch(
        name,
        _shown(ours),
        f"the namespace is open with {name}={theirs!r}, and what is stored there would not be found; "
        + remedy,
    )
