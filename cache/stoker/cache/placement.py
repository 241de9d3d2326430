"""What all processes of a namespace must agree on before they may share it: the map.

Two processes that place keys or age marks differently would delete different keys, so the first to open a namespace
writes the map, and the others adopt the very same or are refused. Only `protocol` reads and writes it.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property

from stoker.cache.errors import PlacementMismatch

_VERSION = 1


@dataclass(frozen=True)
class Map:
    """The namespace's placement.

    Attributes:
        num_shards: Hash tags that keys are spread over.
        hash: Name of the function that places a key.
        probes: Its answers for fixed probe keys.
        pins: Tenant to shard.
        near_bound_ms: How long a near cache may lag.
        max_load_ms: The longest load whose value is stored.
        boot_fence: How server processes are told apart; two that differ would fence each other for ever.
    """

    max_load_ms: int
    boot_fence: str = "run_id"
    num_shards: int = 1
    hash: str = "one"
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
        raise PlacementMismatch(
            name, ours[name], f"the namespace is open with {name}={seen!r}; use that, or another namespace"
        )
