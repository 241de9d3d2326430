"""When a copy of an entry may be served in this process, and which are asked for: rule 14, without I/O.

Reads never wait for any of this. What was read twice is asked for once more over a connection that tracks what it
reads: `near_stream` knows what its answers are worth, `near_channel` moves its bytes, beside the callers.
`backends.redis` tells of reads and writes; the engines look here first.
"""

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from stoker.cache.bans import View
from stoker.cache.clock import clock
from stoker.cache.codec import MSGPACK, Codec, Undecodable, check_type, decode_plain
from stoker.cache.copies import (
    ABSENT,
    OVERHEAD_BYTES,
    Copies,
    Copy,
    Hearing,
    Tracked,
    Want,
)
from stoker.cache.near_shards import NearShards
from stoker.cache.near_stream import Stream, seconds_left
from stoker.cache.options import CacheConfig
from stoker.cache.protocol import Found, Name, Shard
from stoker.cache.stats import Counters
from stoker.cache.tenancy import OURS, name_of, place_of

_MOST_ASKED = 1000
"""Copies on their way; more are not asked for while the channels do not keep up."""
_TALLY_EVERY_S = 1.0

Get = Callable[[str, str | None, Any], Any]


class Near:
    """The copies of one cache. Threads may share it.

    Args:
        keeps: Whether copies of this key are wanted.
        served: What `Copies` is given.

    Attributes:
        get: The value of a key and a tenant (and a type), or ABSENT. Neither need have been checked.
        stream_of: Where changes of a shard are heard of, if they can be. Whoever opens channels says so.
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
        self.stream_of: Callable[[Shard], Stream | None] = lambda _: None
        self._shards = NearShards(self.copies)
        self._refusals = count()
        self._seen: dict[int, bool] = {}
        self._tally_at = 0.0
        self.get = self._make_get()

    def new_stream(self, is_here: Callable[[Shard], bool] | None = None) -> Stream:
        """One for another connection; `is_here` as `Stream` is given it."""
        return Stream(self._shards, self._config, self._counters, self._codec, is_here)

    def place(self, shards: Sequence[Shard]) -> None:
        """Keep copies of what is in these shards, and no others; those on their way are dropped when they come."""
        self._shards.place(shards)

    def forked(self) -> None:
        """Begin without copies: their channels are the parent's."""
        self._shards.forked()
        self._seen = {}

    # -- serving ----------------------------------------------------------------------------------------------

    def _make_get(self) -> Get:
        """Made once, with what it calls at hand, as the memory backend's `peek`."""
        find, now, counters, decode = self.copies.find, clock, self._counters, decode_plain
        absent, ours = ABSENT, OURS

        def get(key: str, tenant_id: str | None, type: Any = None) -> Any:
            try:
                copy = find(key if tenant_id is None else (tenant_id, key, ours))
            except TypeError:  # it cannot be hashed, so it is none
                copy = None
            if copy is not None:
                # In this order. What the last beat vouches for had been applied before `until` was moved, so all that
                # is looked at after it is as new as that, `due` too, by which a copy that was dropped meanwhile is
                # known; and the clock is looked at when nothing else is left to be done.
                tracked = copy.tracked
                until = tracked.until
                ctl = tracked.ctl
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
        tracked = self._shards.of(shard)
        if tracked is None:
            return  # of a placement that is gone
        for name, one in zip(names, found, strict=True):
            if one is not None:
                self._read(name, one, tracked)
        stream = tracked.stream
        if stream is None:
            return  # nothing of it was asked for
        tracked.idle = 0
        if tracked.ctl != shard.view.control.raw and not tracked.asked:
            tracked.asked = True
            stream.ask(Want("", b"", tracked, self._shards.bans))
        stream.stir()

    def _read(self, name: Name, found: Found, tracked: Tracked) -> None:
        place = place_of(*name)
        asked = self._shards.asked.get(place)
        if (asked is not None and asked.tracked is tracked) or self.copies.find(place) is not None:
            return
        mark = hash(place)
        wanted = self._seen.get(mark)
        if wanted is None:  # for the first time: most keys are not read twice
            if len(self._seen) >= 4 * self._config.near_size:
                self._seen.clear()
            self._seen[mark] = self._keeps(name[1])
        elif wanted and self._worth_asking(found) and (stream := self._stream_of(tracked)) is not None:
            want = Want(place, tracked.shard.keys.entry(*name), tracked, self._shards.bans)
            self._shards.asked[place] = want
            tracked.asked = True  # the control record comes along
            stream.ask(want)

    def _worth_asking(self, found: Found) -> bool:
        return (
            len(self._shards.asked) < _MOST_ASKED
            and seconds_left(found.meta, self._config) > 0
            and len(found.blob) + OVERHEAD_BYTES <= self._config.near_bytes
        )

    def _stream_of(self, tracked: Tracked) -> Hearing | None:
        if tracked.stream is None:
            stream = self.stream_of(tracked.shard)
            if stream is not None and not stream.deaf:
                self._shards.follow(tracked, stream)
        return tracked.stream

    def forget(self, names: Sequence[Name]) -> None:
        """This process has changed these entries: drop their copies, those on their way too."""
        self._shards.forget(names)

    def banned(self) -> None:
        """This process has banned something: nothing is served before the control record has come anew."""
        self._shards.banned()

    def first_refusal(self) -> bool:
        """A server lets this process have no copies: whether nobody was told of that yet; one thread is told so."""
        return next(self._refusals) == 0

    # -- counting, for diagnosis --------------------------------------------------------------------------------

    def tally(self) -> None:
        """Have counted what was served."""
        self._shards.tally(look=False)

    def tally_at(self, moment: float) -> None:
        """The same, if it is time; and see whose copies are not served. Of several streams whichever comes first."""
        if moment >= self._tally_at:
            self._tally_at = moment + _TALLY_EVERY_S
            self._shards.tally(look=True)

    def state_of(self, name: Name) -> str:
        """`absent`; `served` if a read now would be served the copy; `held` if it is there, and would not."""
        copy = self.copies.find(place_of(*name))
        if copy is None:
            return "absent"
        view = copy.shard.view
        current = copy.tracked.ctl == view.control.raw and self._lives(copy, view)
        return "served" if current and clock() < min(copy.tracked.until, copy.due) else "held"
