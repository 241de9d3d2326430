"""In which order the memory backend gives up entries: the entries themselves, and the queues that they wait in.

For `store`, which holds its lock for everything here but looking a slot up in the `table`, a dict, and a hit's own mark
of use: either a call of `touch`, a method of that dict, or an addition to the slot's `uses`. So a hit takes no lock.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from stoker.cache.tenancy import Place

MOST_USES = 3
"""Uses that S3-FIFO tells apart: two bits in the paper."""


class Rare(NamedTuple):
    """What entries that were plainly `set` do without.

    Attributes:
        expires: When it is gone; `due` is earlier if it has a soft expiry.
        load_us: What the load cost.
    """

    expires: float
    tags: tuple[str, ...]
    load_us: int


class _Read:
    """What a hit looks at, so that it lies side by side."""

    __slots__ = ("counts", "due", "seq", "uses", "value")


class Slot(_Read):
    """An entry.

    Attributes:
        due: Until when it is served without question.
        seq: The newest ban that it is known to have outlived.
        counts: Hits and misses of its family, see `traffic`.
        uses: Hits since it was last passed over, up to `MOST_USES`; only S3-FIFO asks.
        lasts: Seconds that its values live, if one that lives as long may simply be put in their place; otherwise 0.
        size: Its estimated bytes, where bytes are bounded.
        home: The queue that it waits in, None once it is gone; only S3-FIFO asks.
    """

    __slots__ = ("home", "lasts", "place", "rare", "size")

    def __init__(
        self,
        place: Place,
        value: Any,
        due: float,
        seq: int,
        counts: list[int],
        lasts: float,
        rare: Rare | None,
        size: int,
    ) -> None:
        self.place = place
        self.value = value
        self.due = due
        self.seq = seq
        self.counts = counts
        self.lasts = lasts
        self.rare = rare
        self.size = size
        self.uses = 0
        self.home: _Queue | None = None


class Lru:
    """The least recently used goes first."""

    def __init__(self) -> None:
        self.table: OrderedDict[Place, Slot] = OrderedDict()
        self.touch: Callable[[Place], None] | None = self.table.move_to_end

    def add(self, slot: Slot) -> None:
        """Take in an entry that is not there."""
        self.table[slot.place] = slot

    def replace(self, slot: Slot, by: Slot) -> None:
        """Have another slot of the same place in place of one that is there, as a use of it."""
        self.table[slot.place] = by
        self.table.move_to_end(slot.place)

    def drop(self, slot: Slot) -> None:
        """Let go of an entry that is there."""
        del self.table[slot.place]

    def evict(self) -> Slot:
        """Let go of the entry whose turn it is."""
        return self.table.popitem(last=False)[1]

    def clear(self) -> None:
        """Let go of everything."""
        self.table.clear()

    def __iter__(self) -> Iterator[Slot]:
        return iter(list(self.table.values()))  # at once: a hit may change the order under an iterator

    def __len__(self) -> int:
        return len(self.table)


class _Queue(deque[Slot]):
    """First in, first out. Who left by another way stays until his turn, or until there are too many of those."""

    live = 0


class S3Fifo:
    """New entries wait in a short queue; those used there, or stored again soon after, go on to the main one.

    A scan passes through the short queue and leaves the main one alone. An entry that is evicted from the short one is
    remembered by its hash, as many as there are entries in the main queue of a full cache.

    Source: Yang, Zhang, Qiu, Yue, Rashmi, "FIFO queues are all you need for cache eviction", SOSP 2023, algorithm 1.
    The short queue's tenth is of the entries there are, so that it also holds where bytes are the bound. One use is
    enough to go on, where the algorithm wants two: that serves scans and changes of the hot set better, loops worse.
    """

    def __init__(self) -> None:
        self.table: dict[Place, Slot] = {}
        self.touch: Callable[[Place], None] | None = None
        self._begin()

    def _begin(self) -> None:
        self._new, self._main = _Queue(), _Queue()
        self._ghosts = _Ghosts()
        self._left = 0  # in the queues, but gone

    def add(self, slot: Slot) -> None:
        """Take in an entry that is not there."""
        self._join(self._main if self._ghosts.forget(hash(slot.place)) else self._new, slot)
        self.table[slot.place] = slot

    def replace(self, slot: Slot, by: Slot) -> None:
        """Have another slot of the same place in place of one that is there, as a use of it.

        It stays in the queue and goes to its end.
        """
        queue = self._leave(slot)
        by.uses = min(slot.uses + 1, MOST_USES)
        self._join(queue, by)
        self.table[slot.place] = by

    def drop(self, slot: Slot) -> None:
        """Let go of an entry that is there."""
        self._leave(slot)
        del self.table[slot.place]

    def evict(self) -> Slot:
        """Let go of the entry whose turn it is."""
        while True:
            if self._new.live * 10 >= len(self.table):
                slot = self._next(self._new)
                if not slot.uses:
                    del self.table[slot.place]
                    self._ghosts.add(hash(slot.place), len(self.table) * 9 // 10)
                    return slot
                slot.uses = 0
            else:
                slot = self._next(self._main)
                if not slot.uses:
                    del self.table[slot.place]
                    return slot
                slot.uses -= 1
            self._join(self._main, slot)

    def _join(self, queue: _Queue, slot: Slot) -> None:
        queue.append(slot)
        queue.live += 1
        slot.home = queue

    def _leave(self, slot: Slot) -> _Queue:
        queue = slot.home
        assert queue is not None, "it was let go before"
        queue.live -= 1
        slot.home = None
        self._left += 1
        if self._left > len(self.table) + 16:
            for some in (self._new, self._main):
                waiting = [slot for slot in some if slot.home is some]
                some.clear()
                some.extend(waiting)
            self._left = 0
        return queue

    def _next(self, queue: _Queue) -> Slot:
        while (slot := queue.popleft()).home is not queue:
            self._left -= 1
        queue.live -= 1
        slot.home = None
        return slot

    def clear(self) -> None:
        """Let go of everything, and of what was evicted before."""
        self.table.clear()
        self._begin()

    def __iter__(self) -> Iterator[Slot]:
        return iter(list(self.table.values()))

    def __len__(self) -> int:
        return len(self.table)


class _Ghosts:
    """Hashes of what was evicted lately, oldest first. One that was seen again keeps its place in the queue."""

    def __init__(self) -> None:
        self._order: deque[int] = deque()
        self._known: set[int] = set()

    def add(self, mark: int, most: int) -> None:
        self._order.append(mark)
        self._known.add(mark)
        while len(self._order) > most:
            self._known.discard(self._order.popleft())

    def forget(self, mark: int) -> bool:
        """Tells whether it was known."""
        if mark not in self._known:
            return False
        self._known.discard(mark)
        return True


Entries = Lru | S3Fifo
ORDERS: dict[str, Callable[[], Entries]] = {"lru": Lru, "s3fifo": S3Fifo}
"""By the value of `eviction`."""
