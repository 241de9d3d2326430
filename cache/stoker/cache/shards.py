"""Which shard a key lives in, and the map: what all processes of a namespace must agree on before they share it.

Two processes that place keys or age marks differently would delete different keys, so the first to open a namespace
writes the map, and the others adopt the very same or are refused. Only `control` reads and writes it.
"""

import hashlib
import json
import os
import re
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from stoker.cache.errors import CacheUnavailable, ConfigError, PlacementMismatch

_VERSION = 1
MOST_SHARDS = 1024
CLUSTER_SHARDS = 64
"""On a cluster, unless another number is given: enough to be spread evenly over some ten nodes, and each invalidation
but of single keys goes to all of them."""


_LIFE = re.compile("[0-9a-f]{8}").fullmatch
_PROBES = tuple(f"probe:{n}" for n in range(16))


class Placement:
    """Spreads keys over shards.

    Args:
        num_shards: 1 to 1024.
        key_func: Called with a key; its answer, modulo `num_shards`, is the key's shard. It must give the same answers
            in every process. Without it tenant and key are hashed together (CRC-32).

    Raises:
        ConfigError: `num_shards` is out of range, or `key_func` does not return an int.
    """

    def __init__(self, num_shards: int = 1, key_func: Callable[[str], int] | None = None) -> None:
        if (
            isinstance(num_shards, bool)
            or not isinstance(num_shards, int)
            or not 1 <= num_shards <= MOST_SHARDS
        ):
            raise ConfigError("num_shards", num_shards, f"give a whole number from 1 to {MOST_SHARDS}")
        self.num_shards = num_shards
        self._key_func = key_func
        self.hash = "crc32" if key_func is None else "custom"
        self.probes = () if key_func is None else tuple(self.shard_of("", key) for key in _PROBES)

    def shard_of(self, field: str, key: str) -> int:
        """The shard of a key; `field` is its encoded tenant."""
        if self.num_shards == 1:
            return 0
        if self._key_func is None:
            return zlib.crc32(f"{field}:{key}".encode()) % self.num_shards
        try:
            answer = self._key_func(key)
        except Exception as error:
            raise ConfigError(
                "shard_key_func", self._key_func, f"raised {type(error).__name__} for key {key!r}: {error}"
            ) from error
        if isinstance(answer, bool) or not isinstance(answer, int):
            raise ConfigError("shard_key_func", answer, f"must return an int; it did not for key {key!r}")
        return answer % self.num_shards


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


class Agreement:
    """The map that rules, as one process knows it.

    A map has a life, a random name it gets when it is written: one that was lost and written again is another, and no
    control record of an earlier life is valid under it.

    Attributes:
        map: The settings of this process.
        ruling: The map that rules (nothing, before it is known) and the digest that control records must carry: 8 hex
            digits of the settings, 8 of the life. Replaced as a pair, since threads share it.
    """

    def __init__(self, wanted: Map) -> None:
        self.map = wanted
        self.ruling = b"", wanted.fingerprint + b"0" * 8

    def propose(self) -> bytes:
        """A map with a new life."""
        return self.map.render(os.urandom(4).hex())

    def accept(self, stored: bytes) -> None:
        """Go by the stored map, if its settings are this process's.

        Raises:
            PlacementMismatch: They are not.
            CacheUnavailable: It cannot be read.
        """
        if stored and stored == self.ruling[0]:
            return
        theirs = parsed(stored)
        ours = json.loads(self.map.render(""))
        for name, wanted in ours.items():
            if name != "life" and theirs.get(name) != wanted:
                raise _mismatch(name, wanted, theirs.get(name))
        self.ruling = stored, self.map.fingerprint + theirs["life"].encode()

    def check_standing(self, digest: bytes) -> None:
        """Refuse to write a map while a control record with this digest stands, unless it was of these settings."""
        if digest[:8] != self.map.fingerprint:
            raise PlacementMismatch(
                "map",
                None,
                "it was lost, and what is stored was placed by other settings; start with those, or in a new namespace",
            )


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
    return PlacementMismatch(
        name,
        ours,
        f"the namespace is open with {name}={theirs!r}, and what is stored there would not be found; use that, or "
        "another namespace",
    )
