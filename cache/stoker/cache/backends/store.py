"""The memory backend's entries: which of them are live, how one is stored, and what goes when there is no room.

For `memory`, which adds leases and the ban log's life. One lock guards everything that changes, but for the two things
that are done most: a hit, and a set of a plain value over another (`peek`, `update`). What they go by changes in an
order that makes them safe beside all others; that needs CPython's own lock, under which a dict's method is one step.
"""

import math
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from stoker.cache import tenancy
from stoker.cache.backends import Write
from stoker.cache.backends.eviction import MOST_USES, ORDERS, Rare, Slot
from stoker.cache.backends.sizes import entry_bytes
from stoker.cache.bans import BanTable, Rule
from stoker.cache.flight import Hit
from stoker.cache.options import CacheConfig, Seconds, ttl_ms
from stoker.cache.protocol import Lease
from stoker.cache.stats import Counters
from stoker.cache.tenancy import OURS, Place, name_of, tenant_field

CountsOf = Callable[[str | None, str], list[int]]
Peek = Callable[[str, str | None], Slot | None]
Update = Callable[[str, str | None, Any, Seconds | None], bool]


class Store:
    """Entries and the bans that judge them.

    Attributes:
        slots: The entries, dead ones included.
        leases: Those under way, with their deadlines.
        head: The newest ban.
        peek: The live entry of a key and a tenant, counted as a hit. Neither need have been checked.
        update: Put a value that is true now in the place of one that lives as long; False: `put` has to do it.
    """

    def __init__(
        self, config: CacheConfig, counters: Counters, counts_of: CountsOf, clock: Callable[[], float]
    ) -> None:
        self._max_size = config.max_size
        self._max_bytes = config.max_bytes
        self._default = math.inf if config.default_ttl is None else _seconds(config.default_ttl)
        self._default_ms = 0 if config.default_ttl is None else ttl_ms(config.default_ttl)
        self._counters = counters
        self._counts_of = counts_of
        self._clock = clock
        self.slots = ORDERS[config.eviction]()
        self._table, self._touch = self.slots.table, self.slots.touch
        self.find: Callable[[Place], Slot | None] = self._table.get
        self.peek = self._make_peek()
        self.update = self._make_update()
        self.forked()

    def forked(self) -> None:
        """Begin empty, with a lock that nobody holds."""
        self.lock = threading.RLock()  # what is dropped under it may have a finalizer that uses the cache
        self.leases: dict[Place, tuple[Lease, float]] = {}
        self.bans = BanTable()
        self.head = 1
        self.clear()

    def clear(self) -> None:
        """Let go of every entry."""
        self.slots.clear()
        self.bytes = 0

    # -- without the lock ----------------------------------------------------------------------------------------

    def _make_peek(self) -> Peek:
        """Made once, with what it calls at hand: a hit that looked its tools up would take a tenth longer."""
        find, touch, clock, ours = self.find, self._touch, self._clock, OURS

        def peek(key: str, tenant_id: str | None) -> Slot | None:
            place = key if tenant_id is None else (tenant_id, key, ours)
            try:
                slot = find(place)
            except TypeError:  # it cannot be hashed, so it is none
                return None
            if slot is None:
                return None
            # In this order: `update` writes these in the other one, so no old value goes with a new stamp or expiry.
            if slot.seq != self.head or clock() >= slot.due:
                return self._peek_closely(place)
            slot.counts[0] += 1
            if touch is None:
                if slot.uses < MOST_USES:
                    slot.uses += 1
                return slot
            try:
                touch(place)
            except KeyError:  # it was dropped this moment
                return slot
            return slot

        return peek

    def _make_update(self) -> Update:
        """Threads that update an entry at once differ in nothing but the value, whatever each comes to write."""
        find, touch, clock, default = self.find, self._touch, self._clock, self._default
        ours = OURS
        bounded = self._max_bytes is not None

        def update(key: str, tenant_id: str | None, value: Any, ttl: Seconds | None) -> bool:
            place = key if tenant_id is None else (tenant_id, key, ours)
            leases = self.leases  # looked at first: a fill lets go of its lease when it has stored
            try:
                if leases and place in leases:
                    return False
                slot = find(place)
                lasts = default if ttl is None else _seconds(ttl)
            except TypeError:
                return False
            if slot is None or slot.lasts != lasts:
                return False
            if bounded and slot.size != entry_bytes(tenant_id, key, value):
                return False
            slot.value = value
            slot.due = clock() + lasts
            slot.seq = self.head
            if touch is None:
                if slot.home is None:  # it was dropped this moment, the value with it
                    return False
                if slot.uses < MOST_USES:
                    slot.uses += 1
            else:
                try:
                    touch(place)
                except KeyError:  # likewise
                    return False
            self._counters.sets += 1
            return True

        return update

    # -- under the lock ------------------------------------------------------------------------------------------

    def _peek_closely(self, place: Place) -> Slot | None:
        with self.lock:
            slot = self.live(place)
            if slot is not None:
                slot.counts[0] += 1
                self._counters.stale_hits += self._clock() >= slot.due
            return slot

    def live(self, place: Place) -> Slot | None:
        """The entry, if it may be served; dropped, if it may not.

        Once judged, it is stamped with the newest ban, so that only bans to come are held against it.
        """
        slot = self.find(place)
        if slot is None:
            return None
        if self.dead(slot, self._clock()):
            self.drop(slot)
            return None
        slot.seq = self.head
        if self._touch is not None:
            self._touch(place)
        elif slot.uses < MOST_USES:
            slot.uses += 1
        return slot

    def hit(self, place: Place) -> Hit | None:
        """The live entry as the engine's programs know it."""
        slot = self.live(place)
        if slot is None:
            return None
        now = self._clock()
        load_us = slot.rare.load_us if slot.rare else 0
        return Hit(slot.value, now >= slot.due, (expires(slot) - now) * 1000, load_us)

    def dead(self, slot: Slot, now: float) -> bool:
        """Whether it has expired or is banned."""
        if now >= expires(slot):
            return True
        return slot.seq < self.head and self.bans.kills(*field_and_key(slot.place), tags(slot), slot.seq)

    def drop(self, slot: Slot) -> None:
        """Let go of an entry."""
        self.slots.drop(slot)
        self.bytes -= slot.size

    def drop_dead(self) -> int:
        """Let go of all that is dead; tells how many."""
        now, dropped = self._clock(), 0
        for slot in self.slots:
            if self.dead(slot, now):
                self.drop(slot)  # at once: it may be updated meanwhile
                dropped += 1
        return dropped

    def ban(self, rules: list[Rule]) -> None:
        """Add to the ban log: first the rules, then the head that makes readers look at them."""
        for rule in rules:
            self.bans.add(rule, self.head + 1)
        self.head += 1

    def put(self, tenant_id: str | None, key: str, write: Write) -> bool:
        """Store a value that is true now, and end the name's lease; False if the value alone is too large.

        Key and tenant have been checked.
        """
        place = key if tenant_id is None else place_of(tenant_id, key)
        size = 0 if self._max_bytes is None else entry_bytes(tenant_id, key, write.value)
        fits = self._max_bytes is None or size <= self._max_bytes
        self.lock.acquire()  # `with` takes twice as long
        try:
            old = self.find(place)
            if not fits:
                if old is not None:
                    self.drop(old)
            elif old is None:
                self._make_room(self._max_size - 1, size)
                self.slots.add(self._slot(place, write, size, self._counts_of(tenant_id, key)))
            else:
                self.slots.replace(old, self._slot(place, write, size, old.counts))
                self.bytes -= old.size
                self._make_room(self._max_size, 0)
            self.leases.pop(place, None)  # last, see `update`
            return fits
        finally:
            self.lock.release()

    def _slot(self, place: Place, write: Write, size: int, counts: list[int]) -> Slot:
        now, lasts, rare = self._clock(), self._default, None
        if write.ttl_ms != self._default_ms:
            lasts = _seconds(write.ttl_ms / 1000) if write.ttl_ms else math.inf
        due = now + lasts
        if write.soft_ttl_ms or write.tags or write.load_us:
            rare = Rare(due, write.tags, write.load_us)
            lasts = 0.0
            if write.soft_ttl_ms:
                due = now + write.soft_ttl_ms / 1000
        self.bytes += size
        return Slot(place, write.value, due, self.head, counts, lasts, rare, size)

    def _make_room(self, most: int, size: int) -> None:
        table, most_bytes = self._table, self._max_bytes
        while len(table) > most or (most_bytes is not None and self.bytes + size > most_bytes):
            self._evict()

    def _evict(self) -> None:
        self.bytes -= self.slots.evict().size
        self._counters.evictions += 1

    def full(self) -> tuple[int, int]:
        """(what there is, what there may be): bytes where they are bounded, otherwise entries."""
        if self._max_bytes is not None:
            return self.bytes, self._max_bytes
        return len(self.slots), self._max_size

    def shrink(self, target: int) -> int:
        """Evict until there is no more than that, in the unit of `full`; tells how many entries went."""
        gone = 0
        while len(self.slots) and self.full()[0] > target:
            self._evict()
            gone += 1
        return gone


@lru_cache(maxsize=256, typed=True)
def _seconds(ttl: Seconds) -> float:
    """A time to live, checked and to the millisecond. Equal ones are the same object."""
    return ttl_ms(ttl) / 1000


def place_of(tenant_id: str | None, key: str) -> Place:
    """Where the entry is. The key has been checked, the tenant is now."""
    tenant_field(tenant_id)
    return tenancy.place_of(tenant_id, key)


def field_and_key(place: Place) -> tuple[str, str]:
    """Its tenant, encoded, and its key."""
    tenant_id, key = name_of(place)
    return tenant_field(tenant_id), key


def expires(slot: Slot) -> float:
    """When it is gone."""
    return slot.due if slot.rare is None else slot.rare.expires


def tags(slot: Slot) -> tuple[str, ...]:
    """Its tags."""
    return () if slot.rare is None else slot.rare.tags
