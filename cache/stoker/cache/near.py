"""When a copy of an entry may be served in this process, and how copies come about: rule 14, without I/O.

Reads never wait for any of this. What was read twice is asked for once more over a channel of its own, a connection
that tracks what it reads; `near_channel` moves its bytes, in one thread. Since copies are stored, dropped and vouched
for in the order of that one stream, an answered beat says that every change the server made before the beat was sent
has been applied here. `backends.redis` tells of reads and writes; the engines look here first.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import hiredis
import msgspec
from redis.exceptions import RedisError, ResponseError

from stoker.cache import entry
from stoker.cache.bans import Control, View
from stoker.cache.codec import MSGPACK, Codec, Undecodable, check_type, decode_plain
from stoker.cache.copies import ABSENT, OVERHEAD_BYTES, Copies, Copy, Place, Tracked, name_of, place_of
from stoker.cache.entry import Meta
from stoker.cache.options import CacheConfig
from stoker.cache.protocol import Found, Name, Shard
from stoker.cache.stats import Counters

_MOST_ASKED = 1000
"""Copies on their way; more are not asked for while the channel does not keep up."""
_IMMUTABLE = frozenset({type(None), bool, int, float, str, bytes})
"""Values that are decoded once. Others are decoded for each caller, who may change what he is given."""
_LEFT_TO_CHANCE = 10
"""Within so many times its load's cost before its expiry a value is read the long way, where chance refreshes it."""

Get = Callable[[str, str | None, Any], Any]


def _clock_of_this_system() -> Callable[[], float]:
    """Seconds that also pass while the machine sleeps, where the system counts them."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic if boottime is None else partial(time.clock_gettime, boottime)


clock = _clock_of_this_system()


class Want(NamedTuple):
    """What is asked for: a copy, or without a name only the control record. `bans` of this process by then."""

    place: Place
    stored: bytes
    tracked: Tracked
    bans: int


class Near:
    """The copies of one cache. Threads may share it.

    Args:
        keeps: Whether copies of this key are wanted.
        served: What `Copies` is given.

    Attributes:
        get: The value of a key and a tenant (and a type), or ABSENT. Neither need have been checked.
        until: When copies are to be served no more, unless another beat is answered.
        wake: To be called when there is something to send.
        beating: Whether a beat is under way.
        resting: Whether beats were given up because nobody reads.
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
        self.copies = Copies(config.near_size, config.near_bytes, served)
        self.wake: Callable[[], None] = lambda: None
        self.get = self._make_get()
        self._tracked: dict[Shard, Tracked] = {}
        self._by_ctl: dict[bytes, Tracked] = {}
        self._asked: dict[Place, Want] = {}
        self.forked()

    def place(self, shards: Sequence[Shard]) -> None:
        """Keep copies of what is in these shards, and no others; those on their way are dropped when they come."""
        with self.copies.lock:
            self.copies.clear()
            for tracked in self._tracked.values():
                tracked.ctl = None  # nobody hears of its changes any more
            self._asked = {}
            self._tracked = {shard: Tracked(shard) for shard in shards}
            self._by_ctl = {shard.keys.ctl: tracked for shard, tracked in self._tracked.items()}

    def forked(self) -> None:
        """Begin without copies: their channel is the parent's."""
        self.copies.forked()
        self._bans = 0
        self._server = b""
        self.resting = False
        self._seen: dict[int, bool] = {}
        self._begin()

    def _begin(self) -> None:
        self.until = 0.0
        self._drop_all()
        self._sent: deque[Callable[[Any], object]] = deque()
        self.beating = False
        self._wanted: deque[Want] = deque()
        self._asked = {}
        for tracked in self._tracked.values():
            tracked.asked = False  # last: who asks from now on asks the next channel

    def _drop_all(self) -> None:
        with self.copies.lock:
            self.copies.clear()
            for tracked in self._tracked.values():
                tracked.ctl = None

    # -- serving ----------------------------------------------------------------------------------------------

    def _make_get(self) -> Get:
        """Made once, with what it calls at hand, as the memory backend's `peek`."""
        find, now, counters, decode, absent = self.copies.find, clock, self._counters, decode_plain, ABSENT

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
                raw = view.control.raw
                if ctl == raw and (copy.judged is raw or self._lives(copy, view)):
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
        name = name_of(copy.place)
        if not (self.outlived(copy, view) and copy.shard.serves(view, name, copy.meta)):
            self.forget([name])
            return False
        copy.judged = view.control.raw
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

    # -- what this process reads and changes ------------------------------------------------------------------

    def read(self, names: Sequence[Name], found: Sequence[Found | None], shard: Shard) -> None:
        """These entries were read the long way: ask for what is missing to serve from here those that live."""
        tracked = self._tracked.get(shard)
        if tracked is None:
            return  # of a placement that is gone
        if tracked.ctl != shard.view.control.raw and not tracked.asked:
            tracked.asked = True
            self._ask(Want("", b"", tracked, self._bans))
        for name, one in zip(names, found, strict=True):
            if one is not None:
                self._read(name, one, tracked)
        if self.resting:
            self.resting = False
            self.wake()

    def _read(self, name: Name, found: Found, tracked: Tracked) -> None:
        place = place_of(name)
        if place in self._asked or self.copies.find(place) is not None:
            return
        mark = hash(place)
        wanted = self._seen.get(mark)
        if wanted is None:  # for the first time: most keys are not read twice
            if len(self._seen) >= 4 * self._config.near_size:
                self._seen.clear()
            self._seen[mark] = self._keeps(name[1])
        elif wanted and self._worth_asking(found):
            want = Want(place, tracked.shard.keys.entry(*name), tracked, self._bans)
            self._asked[place] = want
            self._ask(want)

    def _worth_asking(self, found: Found) -> bool:
        return (
            len(self._asked) < _MOST_ASKED
            and self._seconds_left(found.meta) > 0
            and len(found.blob) + OVERHEAD_BYTES <= self._config.near_bytes
        )

    def _ask(self, want: Want) -> None:
        self._wanted.append(want)
        self.wake()

    def forget(self, names: Sequence[Name]) -> None:
        """This process has changed these entries: drop their copies, those on their way too."""
        with self.copies.lock:
            for name in names:
                place = place_of(name)
                self._asked.pop(place, None)
                if (copy := self.copies.find(place)) is not None:
                    self.copies.drop(copy)

    def banned(self) -> None:
        """This process has banned something: nothing is served before the control record has come anew."""
        with self.copies.lock:
            self._bans += 1
            for tracked in self._tracked.values():
                tracked.ctl = None

    # -- what is said on the channel, by its thread ----------------------------------------------------------------

    def opened(self, server: bytes) -> None:
        """A channel to this server is there, and tracks what will be read."""
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
        asked = []
        while self._wanted:
            want = self._wanted.popleft()
            ctl = want.tracked.shard.keys.ctl
            if want.stored:
                asked.append(_pack(("MGET", want.stored, ctl)))
                self._sent.append(partial(self._keep, want))
            else:
                asked.append(_pack(("GET", ctl)))
                self._sent.append(partial(self._keep_ctl, want))
        return b"".join(asked)

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
        with self.copies.lock:
            for name in names:
                if (tracked := self._by_ctl.get(name)) is not None:
                    tracked.ctl = None
                elif (copy := self.copies.named(name)) is not None:
                    self.copies.drop(copy)

    def lost(self) -> None:
        """The channel is gone, and what it tracked with it."""
        if self._server:
            self._server = b""
            self._counters.near_flushes += 1
        self._begin()

    def _keep_ctl(self, want: Want, raw: bytes | None) -> Control | None:
        """Take in the control record, if this server may answer for it and this process has not banned since."""
        tracked = want.tracked
        tracked.asked = False
        control = Control.parse(raw)
        good = control is not None and self._server in control.boots
        with self.copies.lock:
            if want.bans == self._bans:
                tracked.ctl = raw if good else None
        return control if good else None

    def _keep(self, want: Want, reply: Sequence[bytes | None]) -> None:
        blob, raw = reply
        control = self._keep_ctl(want, raw)
        copy = None
        if blob is not None and control is not None:
            copy = self._copied(want, blob, control.floor)
        with self.copies.lock:
            if self._asked.get(want.place) is not want:
                return  # it was changed here meanwhile
            del self._asked[want.place]
            if copy is not None and self._tracked.get(want.tracked.shard) is want.tracked:
                self.copies.add(copy)

    def _copied(self, want: Want, blob: bytes, floor: int) -> Copy | None:
        meta = entry.unpack(blob)
        if meta is None or (left := self._seconds_left(meta)) <= 0:
            return None
        try:
            payload = bytes(self._codec.unpacked(meta.codec, meta.flags, memoryview(blob)[meta.payload_at :]))
            value = decode_plain(payload)
        except (Undecodable, msgspec.MsgspecError):
            return None
        least, due = max(meta.seq, floor), clock() + left
        shared = value if type(value) in _IMMUTABLE else ABSENT
        return Copy(want.place, want.stored, want.tracked, meta, payload, least, due, shared)

    def _seconds_left(self, meta: Meta) -> float:
        """How long the copy is served: less than to its soft expiry, and to when it may be refreshed early."""
        now_ms = time.time() * 1000
        left = meta.hard_ms - now_ms if meta.hard_ms else float("inf")
        if meta.hard_ms and self._config.early_refresh:
            left -= min(left / 2, _LEFT_TO_CHANCE * meta.load_us / 1000 * self._config.early_refresh)
        if meta.soft_ms:
            left = min(left, meta.soft_ms - now_ms)
        return left / 1000

    def tally(self) -> None:
        """Have counted what was served."""
        with self.copies.lock:
            self.copies.tally()

    # -- for diagnosis ------------------------------------------------------------------------------------------

    @property
    def lookups(self) -> int:
        """How often a copy was looked for."""
        return self._counters.near_hits + self._counters.near_misses

    def state_of(self, name: Name) -> str:
        """`absent`; `served` if a read now would be served the copy; `held` if it is there, and would not."""
        copy = self.copies.find(place_of(name))
        if copy is None:
            return "absent"
        view = copy.shard.view
        current = copy.tracked.ctl == view.control.raw and self._lives(copy, view)
        return "served" if current and clock() < min(self.until, copy.due) else "held"


def _primary(role: Any) -> None:
    if role[0] != b"master":
        raise RedisError("this server is a replica; connect to the primary")


def _pack(command: tuple[Any, ...]) -> bytes:
    return bytes(hiredis.pack_command(command))
