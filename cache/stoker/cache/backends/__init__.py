"""Where entries live. The engine talks to this interface; `memory` and `redis` implement it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from msgspec import Struct

from stoker.cache.bans import Rule
from stoker.cache.batch import Batch, BatchFill
from stoker.cache.evict import EvictReport
from stoker.cache.flight import Hit
from stoker.cache.matching import Matching
from stoker.cache.pressure import Makeup, Node
from stoker.cache.programs import Steps
from stoker.cache.protocol import Asked, Busy, Lease, Name
from stoker.cache.reshard import Change, Changed, Tidied
from stoker.cache.shards import Placement
from stoker.cache.sweep import SweepReport
from stoker.cache.traffic import Counts, Group, Unflushed
from stoker.cache.usage import Usage
from stoker.cache.wire import Operation
from stoker.cache.worth import Turn


class Write(Struct, frozen=True, gc=False):
    """A value to be stored. `ttl_ms` and `soft_ttl_ms` are 0 for never; `load_us` is what its load cost.

    `turn` says when it is evicted, against others.
    """

    value: Any
    ttl_ms: int
    soft_ttl_ms: int
    tags: tuple[str, ...]
    load_us: int
    turn: Turn = Turn.NORMAL


class Values(NamedTuple):
    """Live values by key, and how many of them are past their soft expiry."""

    values: dict[str, Any]
    stale: int


class Backend(Protocol):
    """Entries, leases and the ban log of one cache.

    Its methods are operations: whoever drives them does the I/O. Keys and tags come checked. Threads may share it. What
    changes something ends once that is in effect and raises CacheUnavailable where it is unknown; nothing is tried
    again for longer than a few round trips.
    """

    def read(self, tenant_id: str | None, key: str, type: Any = None) -> Operation[Hit | None]: ...

    def read_many(
        self, tenant_id: str | None, keys: Sequence[str], type: Any = None
    ) -> Operation[dict[str, Hit]]: ...

    def read_values(self, tenant_id: str | None, keys: Sequence[str], type: Any = None) -> Operation[Values]:
        """As `read_many`, for who wants no more than the values, in the order asked."""
        ...

    def acquire(
        self, names: Sequence[Name], type: Any = None
    ) -> Operation[list[tuple[Lease | Busy, Hit | None]]]:
        """Ask for the lease of each key and look once more whether its value is there."""
        ...

    def begin_batches(self, names: Sequence[Name]) -> Operation[list[Batch] | None]:
        """Permission to fill these keys, if none of them is there. None: that is not so, or not offered."""
        ...

    def fill_batches(self, fills: Sequence[BatchFill]) -> Operation[list[bool] | None]:
        """As `fill`, of batches; None, and nothing is sent, if a value needs a look of its own."""
        ...

    def snapshot(self, tenant_id: str | None, key: str, hold_ms: int) -> Operation[Lease]:
        """Take the key's lease from whoever has it."""
        ...

    def fill(self, fills: Sequence[tuple[Lease, Write]]) -> Operation[list[bool]]:
        """Store each value if nothing was invalidated under its load. If one cannot be encoded, none is sent."""
        ...

    def renew(self, leases: Sequence[Lease]) -> Operation[None]: ...

    def release(self, leases: Sequence[Lease]) -> Operation[None]: ...

    def store(self, tenant_id: str | None, writes: Sequence[tuple[str, Write]]) -> Operation[list[bool]]:
        """Store each value as true now; False for those there was no memory for."""
        ...

    def ask_refresh(self, tenant_id: str | None, key: str) -> Operation[Asked]:
        """Note that the entry is to be refreshed elsewhere, once for all who notice within a lease."""
        ...

    def refreshed(self, tenant_id: str | None, key: str) -> Operation[None]:
        """Take that note back."""
        ...

    def delete(self, tenant_id: str | None, key: str) -> Operation[bool]: ...

    def ban(self, rules: Sequence[Rule]) -> Operation[Operation[None] | None]:
        """Returns what is to be done once the invalidation has been acknowledged, and may fail."""
        ...

    def explain(self, tenant_id: str | None, key: str) -> Operation[dict[str, Any]]: ...

    def sweep_steps(self, batch: int, cursor: dict[str, Any] | None) -> Steps[SweepReport]: ...

    def evict_steps(
        self, target_bytes: int | None, batch: int, cursor: dict[str, Any] | None, stay: float
    ) -> Steps[EvictReport]: ...

    def stored_name(self, tenant_id: str | None, key: str) -> str:
        """What the entry is called in the store."""
        ...

    @property
    def placement(self) -> Placement:
        """Where keys live, as far as this process knows."""
        ...

    @property
    def default_shards(self) -> int:
        """Of a new namespace, where no number is given."""
        ...

    def place(self, placement: Placement) -> None:
        """Spread keys by this placement; refused once that would lose what is stored."""
        ...

    def change(self, change: Change) -> Operation[Changed]:
        """Have the keys of the namespace live elsewhere from now on; it begins cold."""
        ...

    def tidy(self, cursors: Mapping[str, str], batch: int) -> Operation[Tidied]:
        """Unlink what is in shards that are no more, of one page of each node. `cursors` is empty at the beginning."""
        ...

    def entries_by_shard(self) -> Operation[dict[int, int]]: ...

    def matching(self, rules: Sequence[Rule]) -> Operation[Matching]:
        """The live entries that rules of one tenant name."""
        ...

    def usage(self) -> Operation[Usage]: ...

    def node(self) -> Operation[Node]:
        """How full the server or this process is."""
        ...

    def makeup(self, wanted: int) -> Operation[Makeup]:
        """Whose the entries are, by a sample of about so many."""
        ...

    def add_traffic(self, unflushed: Unflushed) -> Operation[None]:
        """Add what this process has counted to the fleet's."""
        ...

    def traffic(self) -> Operation[dict[Group, Counts]]:
        """The fleet's counts, as far as they were added."""
        ...

    def ping(self) -> Operation[bool]: ...

    def close(self) -> None: ...

    def forked(self) -> None:
        """Called in a forked child before anything else: let go of what belongs to the parent."""
        ...

    def __len__(self) -> int: ...
