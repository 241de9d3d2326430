"""Where entries live. The engine talks to this interface; `memory` and `redis` implement it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from stoker.cache.bans import Rule
from stoker.cache.evict import EvictReport
from stoker.cache.flight import Hit
from stoker.cache.protocol import Busy, Lease, Name
from stoker.cache.shards import Placement
from stoker.cache.steps import Step
from stoker.cache.sweep import SweepReport
from stoker.cache.traffic import Counts, Group
from stoker.cache.usage import Usage


class Write(NamedTuple):
    """A value to be stored. `ttl_ms` and `soft_ttl_ms` are 0 for never; `load_us` is what its load cost."""

    value: Any
    ttl_ms: int
    soft_ttl_ms: int
    tags: tuple[str, ...]
    load_us: int


class Backend(Protocol):
    """Entries, leases and the ban log of one cache.

    Keys and tags come checked. Threads may share it. Methods that change something return once it is in effect and
    raise CacheUnavailable where that is unknown; none retries for longer than a few round trips.
    """

    def read(self, tenant_id: str | None, key: str, type: Any = None) -> Hit | None: ...

    def read_many(self, tenant_id: str | None, keys: Sequence[str], type: Any = None) -> dict[str, Hit]: ...

    def acquire(self, names: Sequence[Name], type: Any = None) -> list[tuple[Lease | Busy, Hit | None]]:
        """Ask for the lease of each key and look once more whether its value is there."""
        ...

    def snapshot(self, tenant_id: str | None, key: str, hold_ms: int) -> Lease:
        """Take the key's lease from whoever has it."""
        ...

    def fill(self, fills: Sequence[tuple[Lease, Write]]) -> list[bool]:
        """Store each value if nothing was invalidated under its load. If one cannot be encoded, none is sent."""
        ...

    def renew(self, leases: Sequence[Lease]) -> None: ...

    def release(self, leases: Sequence[Lease]) -> None: ...

    def store(self, tenant_id: str | None, writes: Sequence[tuple[str, Write]]) -> list[bool]:
        """Store each value as true now; False for those there was no memory for."""
        ...

    def delete(self, tenant_id: str | None, key: str) -> bool: ...

    def ban(self, rules: Sequence[Rule]) -> None: ...

    def explain(self, tenant_id: str | None, key: str) -> dict[str, Any]: ...

    def sweep_steps(self, batch: int, cursor: dict[str, Any] | None) -> Iterator[Step[SweepReport]]: ...

    def evict_steps(
        self, target_bytes: int | None, batch: int, cursor: dict[str, Any] | None
    ) -> Iterator[Step[EvictReport]]: ...

    def stored_name(self, tenant_id: str | None, key: str) -> str:
        """What the entry is called in the store."""
        ...

    def place(self, placement: Placement) -> None:
        """Spread keys by this placement; refused once that would lose what is stored."""
        ...

    def entries_by_shard(self) -> dict[int, int]: ...

    def usage(self) -> Usage: ...

    def add_traffic(self, groups: Mapping[Group, Counts]) -> None:
        """Add this process's counts to the fleet's."""
        ...

    def traffic(self) -> dict[Group, Counts]:
        """The fleet's counts, as far as they were added."""
        ...

    def ping(self) -> bool: ...

    def close(self) -> None: ...

    def forked(self) -> None:
        """Called in a forked child before anything else: let go of what belongs to the parent."""
        ...

    def __len__(self) -> int: ...
