"""What a process holds of entries that are on the server: a bounded table of copies. For `near`, which has the rules.

When there is no room, copies that were not served go first: second chance, also called clock. A hit is counted in the
copy, without a lock; everything else here is done under `Copies.lock`.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Container
from typing import Any, Final, NamedTuple, Protocol

from stoker.cache.entry import Meta
from stoker.cache.protocol import Name, Shard
from stoker.cache.tenancy import Place, name_of

ABSENT: Final = object()
"""What stands for a value that is not there, since None is one."""
OVERHEAD_BYTES = 900
"""What a copy takes besides its bytes: itself, its header and tags, its places in two tables."""


class Tracked:
    """A shard as one stream has it; when that ends, or the shard goes elsewhere, another takes its place.

    Attributes:
        stream: None: nobody listens yet.
        until: When its copies are to be served no more, unless another beat is answered.
        ctl: Its control record; None where it is not known, or changed since it was read.
        asked: Whether that was asked for and has not come.
        life: Incarnation and generation of the record under which its copies came.
        idle: For how many counts none of its copies was served, and nothing of it read.
    """

    __slots__ = ("asked", "ctl", "idle", "life", "shard", "stream", "until")

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.stream: Hearing | None = None
        self.until = 0.0
        self.ctl: bytes | None = None
        self.asked = False
        self.life: tuple[bytes, int] | None = None
        self.idle = 0


class Want(NamedTuple):
    """What is asked for: a copy, or without a name only the control record. `bans` of this process by then."""

    place: Place
    stored: bytes
    tracked: Tracked
    bans: int


class Hearing(Protocol):
    """Who listens to a server; see `near_stream`."""

    tracks: set[Tracked]

    def ask(self, want: Want) -> None: ...

    def stir(self) -> None: ...


class Copy:
    """An entry as it came over the channel.

    Attributes:
        stored: Its name on the server.
        least: Bans up to this seq need not be known to judge it: they are older than it, or had retired when it was
            read, so that it had outlived them.
        due: Until when it is served, in seconds; 0 once it is not in the table any more.
        value: Decoded, if that may be given to every caller; otherwise ABSENT.
        judged: The control record of the latest view by which it may be served.
        hits: How often it was served since that was last counted.
        used: Whether it had been served by then, since it was last passed over.
    """

    __slots__ = (
        "due",
        "hits",
        "judged",
        "least",
        "meta",
        "payload",
        "place",
        "shard",
        "size",
        "stored",
        "tracked",
        "used",
        "value",
    )

    def __init__(
        self,
        place: Place,
        stored: bytes,
        tracked: Tracked,
        meta: Meta,
        payload: bytes,
        least: int,
        due: float,
        value: Any,
    ) -> None:
        self.place = place
        self.stored = stored
        self.tracked = tracked
        self.shard = tracked.shard
        self.meta = meta
        self.payload = payload
        self.least = least
        self.due = due
        self.value = value
        self.judged = b""
        self.hits = 0
        self.used = False
        self.size = OVERHEAD_BYTES + 2 * len(stored) + len(payload) * (1 if value is ABSENT else 2)


class Copies:
    """Copies by place and by stored name.

    Args:
        most: Copies.
        most_bytes: Of them, estimated.
        served: Told how often a key was served; tells whether a read should go the long way and take all counts along.

    Attributes:
        find: The copy at a place, or None; needs no lock.
        lock: Of whoever changes something. What runs under it may be a finalizer that uses the cache.
        bytes: Of all copies, estimated.
    """

    def __init__(self, most: int, most_bytes: int, served: Callable[[Name, int], bool]) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._served = served
        self._due = False
        self._table: OrderedDict[Place, Copy] = OrderedDict()
        self._by_stored: dict[bytes, Copy] = {}
        self.find: Callable[[Place], Copy | None] = self._table.get
        self.forked()

    def forked(self) -> None:
        """Begin without a lock that somebody may have held, and without the parent's copies and counts."""
        self.lock = threading.RLock()
        for copy in self._table.values():
            copy.due = 0.0
        self._table.clear()
        self._by_stored.clear()
        self.bytes = 0

    def add(self, copy: Copy) -> None:
        """Take in a copy, in place of one that is there; unless it is too large for all the room there is."""
        if (old := self._table.get(copy.place)) is not None:
            self.drop(old)
        if copy.size > self._most_bytes:
            return
        self._table[copy.place] = copy
        self._by_stored[copy.stored] = copy
        self.bytes += copy.size
        while len(self._table) > self._most or self.bytes > self._most_bytes:
            oldest = next(iter(self._table.values()))
            if not self._count(oldest):
                self._end(oldest)
            elif oldest.due:
                oldest.used = False
                self._table.move_to_end(oldest.place)

    def named(self, stored: bytes) -> Copy | None:
        """The copy of the entry with this name on the server."""
        return self._by_stored.get(stored)

    def drop(self, copy: Copy) -> None:
        """Let go of a copy that is there."""
        self._count(copy)
        self._end(copy)

    def _end(self, copy: Copy) -> None:
        """Who has just found it serves it no more: from now on nobody would tell him that its entry has changed."""
        if copy.due:  # else a finalizer, which may have run where hits were counted, was first
            copy.due = 0.0
            del self._table[copy.place]
            del self._by_stored[copy.stored]
            self.bytes -= copy.size

    def drop_of(self, shards: Container[Tracked]) -> None:
        """Let go of all that came with these."""
        for copy in [copy for copy in list(self._table.values()) if copy.tracked in shards]:
            self.drop(copy)

    def tally(self) -> None:
        """Count what was served of all copies; now and then drop one of them, so that a read takes the counts along."""
        copies = [copy for copy in list(self._table.values()) if copy.hits]
        for copy in copies:
            self._count(copy)
        if copies and self._due:
            self.drop(copies[-1])

    def _count(self, copy: Copy) -> bool:
        """Tell how often it was served. Returns whether it was, since it was last passed over."""
        hits, copy.hits = copy.hits, 0  # a hit beside this may be lost, which harms nobody
        if hits:
            copy.used = True
            copy.tracked.idle = 0
            self._due = self._served(name_of(copy.place), hits)
        return copy.used

    def __len__(self) -> int:
        return len(self._table)
