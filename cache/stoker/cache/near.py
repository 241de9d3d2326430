"""Copies of entries in this process, and when one may be served: rule 14, without I/O.

Reads never wait for any of this. What was read twice is asked for once more over a channel of its own, a connection
that tracks what it reads; `near_channel` moves its bytes, in one thread. Since copies are stored, dropped and vouched
for in the order of that one stream, an answered beat says that every change the server made before the beat was sent
has been applied here. `backends.redis` tells of reads and writes; the engines look here first.
"""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import hiredis
import msgspec
from redis.exceptions import RedisError, ResponseError

from stoker.cache import entry
from stoker.cache.bans import Control, View
from stoker.cache.codec import MSGPACK, Codec, Undecodable, check_type, decode_plain
from stoker.cache.entry import Meta
from stoker.cache.options import CacheConfig
from stoker.cache.protocol import Found, Name, Shard
from stoker.cache.stats import Counters

ABSENT: Final = object()
"""What is returned in place of a value, which may be None."""
OVERHEAD_BYTES = 900
"""What a copy takes besides its bytes: itself, its header and tags, its places in two tables."""
_MOST_ASKED = 1000
"""Copies on their way; more are not asked for while the channel does not keep up."""
_IMMUTABLE = frozenset({type(None), bool, int, float, str, bytes})
"""Values that are decoded once. Others are decoded for each caller, who may change what he is given."""
_SHARED_XFETCH = 10
"""Within so many times its load's cost before its expiry a value is read the long way, where chance refreshes it."""

Place = str | tuple[str, str]
"""A key of the shared key space; or a tenant and a key."""
Get = Callable[[str, str | None, Any], Any]


def _clock_of_this_system() -> Callable[[], float]:
    """Seconds that also pass while the machine sleeps, where the system counts them."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic if boottime is None else partial(time.clock_gettime, boottime)


clock = _clock_of_this_system()


class Tracked:
    """A shard, and its control record as the channel has it.

    Attributes:
        ctl: None where it is not known, or changed since it was read.
        asked: Whether it was asked for and has not come.
    """

    __slots__ = ("asked", "ctl", "shard")

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.ctl: bytes | None = None
        self.asked = False


class Copy:
    """An entry as it came over the channel.

    Attributes:
        view: The latest view that it was judged by, and lives.
        least: Bans up to this seq need not be known to judge it: they are older than it, or had retired when it was
            read, so that it had outlived them.
        due: Until when it is served (seconds of `clock`).
        value: Decoded, if that may be given to every caller.
        hits: How often it was served since that was last counted.
        used: Whether it had been served by then, since it was last passed over.
    """

    __slots__ = (
        "due",
        "hits",
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
        "view",
    )

    def __init__(
        self, want: "_Want", meta: Meta, payload: bytes | memoryview, least: int, due: float, value: Any
    ) -> None:
        self.place = want.place
        self.stored = want.stored
        self.tracked = want.tracked
        self.shard = want.tracked.shard
        self.meta = meta
        self.payload = payload
        self.least = least
        self.due = due
        self.value = value
        self.view: View | None = None
        self.hits = 0
        self.used = False
        self.size = OVERHEAD_BYTES + 2 * len(want.stored) + len(payload) * (1 if value is ABSENT else 2)


class _Want:
    """A copy that was asked for. `bans`: how often this process had banned something by then."""

    __slots__ = ("bans", "place", "stored", "tracked")

    def __init__(self, place: Place, stored: bytes, tracked: Tracked, bans: int) -> None:
        self.place = place
        self.stored = stored
        self.tracked = tracked
        self.bans = bans


class Near:
    """The copies of one cache, bounded by entries and bytes; what was not used goes first (second chance).

    Threads may share it. Served is without a lock; what changes something takes one.

    Args:
        keeps: Whether copies of this key are wanted.
        served: Told how often a key was served; tells whether a read should go the long way and take all counts along.

    Attributes:
        get: The value of a key and a tenant (and a type), or ABSENT. Neither need have been checked.
        until: When the copies are to be served no more, unless another beat is answered.
        wake: To be called when there is something to send.
        resting: Whether beats were given up because nobody read.
    """

    def __init__(
        self,
        config: CacheConfig,
        counters: Counters,
        codec: Codec,
        keeps: Callable[[str], bool],
        served: Callable[[Name, int], bool],
    ) -> None:
        self._config = config
        self._counters = counters
        self._codec = codec
        self._keeps = keeps
        self._served = served
        self._table: OrderedDict[Place, Copy] = OrderedDict()
        self.wake: Callable[[], None] = lambda: None
        self.get = self._make_get()
        self.place(())

    def place(self, shards: Sequence[Shard]) -> None:
        """Keep copies of what is in these shards."""
        self._tracked = {shard: Tracked(shard) for shard in shards}
        self._by_ctl = {shard.keys.ctl: tracked for shard, tracked in self._tracked.items()}
        self.forked()

    def forked(self) -> None:
        """Begin without copies: their channel is the parent's."""
        self._lock = threading.RLock()  # a finalizer that runs under it may use the cache
        self._bans = 0
        self._due = False
        self._server = b""
        self.resting = False
        self._seen: dict[int, bool] = {}
        self._begin()

    # -- serving ----------------------------------------------------------------------------------------------

    @property
    def lookups(self) -> int:
        """How often a copy was looked for."""
        return self._counters.near_hits + self._counters.near_misses

    def _make_get(self) -> Get:
        """Made once, with what it calls at hand, as the memory backend's `peek`."""
        find, now, counters, decode, absent = self._table.get, clock, self._counters, decode_plain, ABSENT

        def get(key: str, tenant_id: str | None, type: Any = None) -> Any:
            # In this order. What the last beat vouches for had been applied before `until` was moved, so all that is
            # looked at after it is as new as that; and the clock is looked at when nothing is left to be done.
            until = self.until
            try:
                copy = find(key if tenant_id is None else (tenant_id, key))
            except TypeError:  # it cannot be hashed, so it is none
                copy = None
            if copy is not None:
                ctl = copy.tracked.ctl
                view = copy.shard.view
                if ctl == view.control.raw and (copy.view is view or self._lives(copy, view)):
                    value = copy.value
                    if type is not None:
                        value = self._decoded(copy, type)
                    elif value is absent:
                        value = decode(copy.payload)
                    moment = now()
                    if moment < until and moment < copy.due and value is not absent:
                        copy.hits += 1
                        counters.near_hits += 1
                        return value
            counters.near_misses += 1
            return absent

        return get

    def _lives(self, copy: Copy, view: View) -> bool:
        """Whether the copy may be served by this view, whose control record is the tracked one."""
        name = _name_of(copy.place)
        if not (self.outlived(copy, view) and copy.tracked.shard.serves(view, name, copy.meta)):
            self.forget([name])
            return False
        copy.view = view
        return True

    def outlived(self, copy: Copy, view: View) -> bool:
        """Whether the view knows all bans that the copy is to be judged by: rule 4 for what was read long ago."""
        return copy.least >= view.control.floor

    def _decoded(self, copy: Copy, type: Any) -> Any:
        check_type(type)
        try:
            return self._codec.decode(MSGPACK, 0, copy.payload, type)
        except Undecodable:
            return ABSENT  # the long way counts it

    # -- what this process reads and writes -----------------------------------------------------------------------

    def read(self, names: Sequence[Name], found: Sequence[Found | None], shard: Shard) -> None:
        """These entries were read the long way: ask for what is missing to serve from here those that live."""
        tracked = self._tracked[shard]
        if tracked.ctl != shard.view.control.raw and not tracked.asked:
            tracked.asked = True
            self._wanted.append(_Want("", b"", tracked, self._bans))
            self.wake()
        for name, one in zip(names, found, strict=True):
            place = name[1] if name[0] is None else (name[0], name[1])
            if one is None or place in self._table:
                continue
            mark = hash(place)
            wanted = self._seen.get(mark)
            if wanted is None:  # for the first time: most keys are not read twice
                if len(self._seen) >= 4 * self._config.near_size:
                    self._seen.clear()
                self._seen[mark] = self._keeps(name[1])
            elif wanted and place not in self._asked and self._worth_asking(one):
                want = _Want(place, shard.keys.entry(*name), tracked, self._bans)
                self._asked[place] = want
                self._wanted.append(want)
                self.wake()
        if self.resting:
            self.resting = False
            self.wake()

    def _worth_asking(self, found: Found) -> bool:
        return (
            len(self._asked) < _MOST_ASKED
            and self._seconds_left(found.meta) > 0
            and len(found.blob) + OVERHEAD_BYTES <= self._config.near_bytes
        )

    def forget(self, names: Sequence[Name]) -> None:
        """This process has changed these entries: drop their copies, those on their way too."""
        with self._lock:
            for tenant_id, key in names:
                place = key if tenant_id is None else (tenant_id, key)
                self._asked.pop(place, None)
                if (copy := self._table.get(place)) is not None:
                    self._drop(copy)

    def banned(self) -> None:
        """This process has banned something: nothing is served before the control record has come anew."""
        with self._lock:
            self._bans += 1
            for tracked in self._tracked.values():
                tracked.ctl = None

    # -- what is said on the channel, by its thread -----------------------------------------------------------------

    def opened(self, server: bytes) -> None:
        """A channel to this server is there, and tracks; it has no copies yet."""
        self._server = server

    def beat(self) -> bytes:
        """The question whose answer vouches for all that has come before it: is the server primary, and tracking?"""
        sent = clock()

        def answered(reply: Any) -> None:
            if b"on" not in reply[b"flags"]:
                raise RedisError("the server does not track any more what this channel has read")
            self.beating = False
            self.until = self.vouched(sent)

        self.beating = True
        self._sent += (_primary, answered)
        return _pack(("ROLE",)) + _pack(("CLIENT", "TRACKINGINFO"))

    def vouched(self, sent: float) -> float:
        """Until when an answered beat that was sent then allows copies to be served."""
        return sent + self._config.near_bound

    def questions(self) -> bytes:
        """What is to be asked for now."""
        asked = b""
        while self._wanted:
            want = self._wanted.popleft()
            ctl = want.tracked.shard.keys.ctl
            if want.stored:
                asked += _pack(("MGET", want.stored, ctl))
                self._sent.append(partial(self._keep, want))
            else:
                asked += _pack(("GET", ctl))
                self._sent.append(partial(self._keep_ctl, want))
        return asked

    def heard(self, message: Any) -> None:
        """Take in what came over the channel next.

        Raises:
            RedisError: The channel is of no more use.
        """
        if isinstance(message, hiredis.PushNotification):
            if message[0] == b"invalidate":
                self.changed(message[1])
            return
        if isinstance(message, Exception):
            raise ResponseError(str(message))
        self._sent.popleft()(message)

    def changed(self, names: Sequence[bytes] | None) -> None:
        """Somebody changed these keys; None: all of them."""
        if names is None:
            self._counters.near_flushes += 1
            self._drop_all()
            return
        self._counters.near_invalidations += len(names)
        with self._lock:
            for name in names:
                if (tracked := self._by_ctl.get(name)) is not None:
                    tracked.ctl = None
                elif (copy := self._by_name.get(name)) is not None:
                    self._drop(copy)

    def lost(self) -> None:
        """The channel is gone, and what it tracked with it."""
        self._counters.near_flushes += 1
        self._begin()

    def _begin(self) -> None:
        self.until = 0.0
        self._drop_all()
        self._sent: deque[Callable[[Any], object]] = deque()
        self.beating = False
        self._wanted: deque[_Want] = deque()
        self._asked: dict[Place, _Want] = {}
        for tracked in self._tracked.values():
            tracked.asked = False  # last: who asks from now on asks the next channel

    def _drop_all(self) -> None:
        with self._lock:
            for copy in self._table.values():
                self._count(copy)
            self._table.clear()
            self._by_name: dict[bytes, Copy] = {}
            self.bytes = 0
            for tracked in self._tracked.values():
                tracked.ctl = None

    def _keep_ctl(self, want: _Want, raw: bytes | None) -> Control | None:
        """Take in the control record, if this server may answer for it and this process has not banned since."""
        tracked = want.tracked
        tracked.asked = False
        control = Control.parse(raw)
        good = control is not None and self._server in control.boots
        with self._lock:
            if want.bans == self._bans:
                tracked.ctl = raw if good else None
        return control if good else None

    def _keep(self, want: _Want, reply: Sequence[bytes | None]) -> None:
        blob, raw = reply
        control = self._keep_ctl(want, raw)
        meta = entry.unpack(blob) if blob is not None else None
        copy = None
        if control is not None and meta is not None and blob is not None:
            copy = self._copied(want, meta, blob, control.floor)
        with self._lock:
            if self._asked.get(want.place) is not want:
                return  # it was changed here meanwhile
            del self._asked[want.place]
            if copy is not None and copy.size <= self._config.near_bytes:
                self._add(copy)

    def _copied(self, want: _Want, meta: Meta, blob: bytes, floor: int) -> Copy | None:
        left = self._seconds_left(meta)
        if left <= 0:
            return None
        try:
            packed = memoryview(blob)[meta.payload_at :]
            payload = self._codec.unpacked(meta.codec, meta.flags, packed)
            value = decode_plain(payload)
        except msgspec.MsgspecError:
            return None
        except Undecodable:
            return None
        if type(value) not in _IMMUTABLE:
            value = ABSENT
        return Copy(want, meta, bytes(payload), max(meta.seq, floor), clock() + left, value)

    def _seconds_left(self, meta: Meta) -> float:
        """How long the copy is served: less than to its soft expiry, and to when it may be refreshed early."""
        now_ms = time.time() * 1000
        left = meta.hard_ms - now_ms if meta.hard_ms else float("inf")
        if meta.hard_ms and self._config.early_refresh:
            left -= min(left / 2, _SHARED_XFETCH * meta.load_us / 1000 * self._config.early_refresh)
        if meta.soft_ms:
            left = min(left, meta.soft_ms - now_ms)
        return left / 1000

    # -- under the lock ----------------------------------------------------------------------------------------------

    def _add(self, copy: Copy) -> None:
        if (old := self._table.get(copy.place)) is not None:
            self._drop(old)
        self._table[copy.place] = copy
        self._by_name[copy.stored] = copy
        self.bytes += copy.size
        while len(self._table) > self._config.near_size or self.bytes > self._config.near_bytes:
            _, oldest = self._table.popitem(last=False)
            if self._count(oldest):
                oldest.used = False
                self._table[oldest.place] = oldest
            else:
                del self._by_name[oldest.stored]
                self.bytes -= oldest.size

    def _drop(self, copy: Copy) -> None:
        self._count(copy)
        del self._table[copy.place]
        del self._by_name[copy.stored]
        self.bytes -= copy.size

    def _count(self, copy: Copy) -> bool:
        """Tell how often it was served. Returns whether it was, since it was last passed over."""
        hits, copy.hits = copy.hits, 0  # a hit beside this may be lost, which harms nobody
        if hits:
            copy.used = True
            self._due = self._served(_name_of(copy.place), hits)
        return copy.used

    def tally(self) -> None:
        """Count what was served of all copies; now and then drop one of them, so that a read takes the counts along."""
        with self._lock:
            copies = [copy for copy in self._table.values() if copy.hits]
            for copy in copies:
                self._count(copy)
            if copies and self._due:
                self._drop(copies[-1])

    # -- for diagnosis -------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._table)

    def state_of(self, name: Name) -> str:
        """`absent`; `served` if a read now would be served the copy; `held` if it is there, and would not."""
        copy = self._table.get(name[1] if name[0] is None else (name[0], name[1]))
        if copy is None:
            return "absent"
        view = copy.tracked.shard.view
        current = copy.tracked.ctl == view.control.raw and self._lives(copy, view)
        return "served" if current and clock() < min(self.until, copy.due) else "held"


def _primary(role: Any) -> None:
    if role[0] != b"master":
        raise RedisError("this server is a replica; connect to the primary")


def _pack(command: tuple[Any, ...]) -> bytes:
    return bytes(hiredis.pack_command(command))


def _name_of(place: Place) -> Name:
    return (None, place) if isinstance(place, str) else place
