"""Which shard a key lives in, and the map: what all processes of a namespace must agree on before they share it.

Two processes that place keys or age marks differently would delete different keys, so the first to open a namespace
writes the map, and the others adopt the very same or are refused. Only `control` reads and writes it.
"""

import hashlib
import json
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property

from stoker.cache.errors import ConfigError, PlacementMismatch

_VERSION = 1
MOST_SHARDS = 1024


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
        answer = self._key_func(key)
        if isinstance(answer, bool) or not isinstance(answer, int):
            raise ConfigError("shard_key_func", answer, f"must return an int; it did not for key {key!r}")
        return answer % self.num_shards


@dataclass(frozen=True)
class Map:
    """The namespace's placement.

    Attributes:
        num_shards: Hash tags that keys are spread over.
        hash: The function that places a key: `crc32`, or `custom`.
        probes: Where a custom function places 16 fixed keys.
        pins: Tenant to shard.
        near_bound_ms: How long a near cache may lag.
        max_load_ms: The longest load whose value is stored.
        boot_fence: How server processes are told apart; two that differ would fence each other for ever.
    """

    max_load_ms: int
    boot_fence: str = "run_id"
    num_shards: int = 1
    hash: str = "crc32"
    probes: tuple[int, ...] = ()
    pins: tuple[tuple[str, int], ...] = ()
    near_bound_ms: int = 100

    @cached_property
    def raw(self) -> bytes:
        """The map as it stands in Redis: JSON with sorted names."""
        return json.dumps(
            {"version": _VERSION, **asdict(self)}, sort_keys=True, separators=(",", ":")
        ).encode()

    @cached_property
    def digest(self) -> bytes:
        """Eight hex digits that every control record of the namespace carries."""
        return hashlib.sha256(self.raw).hexdigest()[:8].encode()

    def check(self, stored: bytes | None) -> None:
        """Raise PlacementMismatch unless `stored` is this map."""
        if stored == self.raw:
            return
        if stored is None:
            raise PlacementMismatch(
                "map",
                None,
                "it was lost while entries of other settings remain; start with those, or in a new namespace",
            )
        try:
            theirs = json.loads(stored)
            ours = json.loads(self.raw)
            name = next(name for name in ours if theirs.get(name) != ours[name])
            seen = theirs.get(name)
        except (ValueError, AttributeError, StopIteration):
            raise PlacementMismatch("map", stored[:80], "it is not readable; use another namespace") from None
        if name == "probes":
            raise PlacementMismatch(
                "shard_key_func",
                ours[name],
                f"the process that opened the namespace got {seen!r} for the same keys; use a function that gives the "
                "same answers in every process (hash() of a str does not, zlib.crc32 does)",
            )
        raise PlacementMismatch(
            name,
            ours[name],
            f"the namespace is open with {name}={seen!r}, and what is stored there would not be found; use that, or "
            "another namespace",
        )
