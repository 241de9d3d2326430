"""What is said over one connection that tracks what it reads, and what its answers are worth: rule 14, without I/O.

On a server there is one stream, on a cluster one for each node that copies come from. Since copies are stored, dropped
and vouched for in the order of that one stream, an answered beat says that every change the server made before the beat
was sent has been applied here. Where slots move, another node may make changes by then: there a beat also asks for the
control record of each shard whose copies are served. What is answered by the node that the shard's reads go to, with
the record that is known, could be read there now; so copies lag behind such reads by the bound, and no more.

`near_channel` moves its bytes.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import hiredis
import msgspec
from redis.exceptions import RedisError, ResponseError

from stoker.cache import entry
from stoker.cache.bans import Control
from stoker.cache.clock import clock
from stoker.cache.codec import Codec, Undecodable, decode_plain
from stoker.cache.copies import ABSENT, Copy, Tracked, Want
from stoker.cache.entry import Meta
from stoker.cache.near_shards import NearShards
from stoker.cache.options import CacheConfig
from stoker.cache.protocol import Shard
from stoker.cache.stats import Counters

_IMMUTABLE = frozenset({type(None), bool, int, float, str, bytes})
"""Values that are decoded once. Others are decoded for each caller, who may change what he is given."""
_LEFT_TO_CHANCE = 10
"""Within so many times its load's cost before its expiry a value is read the long way, where chance refreshes it."""
_IDLE = 2
"""Counts after which nobody vouches for a shard any more, until something of it is read."""
_REST_AFTER = 10
"""Beats in which nobody read: then they are given up until somebody does."""
_ELSEWHERE = "MOVED ", "ASK ", "TRYAGAIN", "CLUSTERDOWN"
"""What an error begins with that says: this node has no word in that slot now, or not alone."""


class Stream:
    """What is asked over a connection, answer by answer.

    Args:
        is_here: On a cluster, whether reads of a shard go to this node. None: to where else?

    Attributes:
        tracks: The shards whose changes are heard of.
        wake: To be called when there is something to send.
        beating: Whether a beat is under way.
        resting: Whether beats were given up because nobody reads.
        deaf: Whether there is no connection for a while, so that nothing need be asked.
    """

    def __init__(
        self,
        shards: NearShards,
        config: CacheConfig,
        counters: Counters,
        codec: Codec,
        is_here: Callable[[Shard], bool] | None,
    ) -> None:
        self._shards = shards
        self._config = config
        self._counters = counters
        self._codec = codec
        self._is_here = is_here
        self.tracks: set[Tracked] = set()
        self.wake: Callable[[], None] = lambda: None
        self.forked()

    def forked(self) -> None:
        """Begin without a connection: that is the parent's."""
        self.resting = self.deaf = False
        self._server = b""
        self._quiet, self._lookups = 0, -1
        self._begin()

    def _begin(self) -> None:
        self._sent: deque[Callable[[Any], object]] = deque()
        self._wanted: deque[Want] = deque()
        self.beating = False

    @property
    def needed(self) -> bool:
        """Whether anything is to be heard. A node of a cluster may be gone for good."""
        return self._is_here is None or bool(self.tracks)

    # -- what is asked ---------------------------------------------------------------------------------------------

    def ask(self, want: Want) -> None:
        """Ask for this soon."""
        self._wanted.append(want)
        self.wake()

    def stir(self) -> None:
        """Somebody reads."""
        if self.resting:
            self.resting, self._quiet = False, 0
            self.wake()

    def rest(self) -> bool:
        """Whether no beat is due since nobody has read lately. To be asked before each."""
        lookups = self._counters.near_hits + self._counters.near_misses
        self._quiet = 0 if lookups != self._lookups else self._quiet + 1
        self._lookups = lookups
        read = self._is_here is None or any(tracked.idle <= _IDLE for tracked in self._tracked())
        self.resting = self._quiet >= _REST_AFTER or not read
        return self.resting

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
                self._sent.append(partial(self._keep_ctl, want.tracked, want.bans))
        return b"".join(asked)

    def beat(self) -> bytes:
        """The question whose answer vouches for all that has come before it: is the server primary, and tracking?

        And is it still asked for the shards that live there, and has what it had of them?
        """
        sent = clock()
        doubted = self.doubted()
        vouched_for: list[Tracked] = []
        for tracked in doubted or ():
            self._sent.append(partial(self._found, tracked, self._shards.bans, vouched_for))

        def answered(reply: Any) -> None:
            if b"on" not in reply[b"flags"]:
                raise RedisError("the server does not track any more what this channel has read")
            self.beating = False
            until = self.vouched(sent)
            for tracked in vouched_for if doubted is not None else self._tracked():
                tracked.until = until

        self.beating = True
        self._sent += (_primary, answered)
        records = [_pack(("GET", tracked.shard.keys.ctl)) for tracked in doubted or ()]
        return b"".join([*records, _pack(("ROLE",)), _pack(("CLIENT", "TRACKINGINFO"))])

    def doubted(self) -> list[Tracked] | None:
        """The shards for which no beat vouches unless their records are found here; None: there is nowhere else.

        Apart so that the checker can take this guard away.
        """
        if self._is_here is None:
            return None
        for tracked in self._tracked():
            if not self._is_here(tracked.shard):
                self._gone(tracked)
        return [tracked for tracked in self._tracked() if tracked.idle <= _IDLE]

    def _tracked(self) -> list[Tracked]:
        with self._shards.copies.lock:
            return list(self.tracks)

    def vouched(self, sent: float) -> float:
        """Until when an answered beat that was sent then allows copies to be served."""
        return sent + self._config.near_bound

    # -- what is heard ---------------------------------------------------------------------------------------------

    def opened(self, server: bytes) -> None:
        """A connection to this server process is there, and tracks what will be read."""
        self._server = server

    def lost(self) -> None:
        """The connection is gone, and what it tracked with it."""
        if self._server:
            self._server = b""
            self._counters.near_flushes += 1
        self._begin()  # first: who asks from now on asks the next one
        self._shards.let_go(self._tracked())

    def heard(self, message: Any) -> None:
        """Take in what came next.

        Raises:
            RedisError: The connection is of no more use.
        """
        if isinstance(message, hiredis.PushNotification):
            if message[0] == b"invalidate":
                self.changed(message[1])
            return
        if isinstance(message, Exception) and not str(message).startswith(_ELSEWHERE):
            raise ResponseError(str(message))
        self._sent.popleft()(message)

    def changed(self, names: Sequence[bytes] | None) -> None:
        """Somebody changed these keys; None: all of them."""
        if names is None:
            self._counters.near_flushes += 1
            self._shards.empty(self._tracked())
            return
        self._counters.near_invalidations += len(names)
        self._shards.changed(names)

    def _found(self, tracked: Tracked, bans: int, vouched_for: list[Tracked], raw: Any) -> None:
        """A beat has looked for the shard's control record."""
        if raw is not None and raw == tracked.ctl:  # as a rule
            vouched_for.append(tracked)
        elif not isinstance(raw, Exception):
            self._keep_ctl(tracked, bans, raw)
            vouched_for.append(tracked)
        else:
            self._gone(tracked)

    def _gone(self, tracked: Tracked) -> None:
        """The shard is at another node by now, or at none."""
        if tracked in self.tracks:
            self._counters.near_flushes += 1
            self._shards.let_go((tracked,))

    def _keep_ctl(self, tracked: Tracked, bans: int, raw: Any) -> Control | None:
        """Take in the control record, if this server may answer for it and this process has not banned since."""
        if isinstance(raw, Exception):
            self._gone(tracked)
            return None
        tracked.asked = False
        control = Control.parse(raw)
        good = control is not None and self._server in control.boots
        if control is not None and good:
            self._go_on(tracked, control)
        with self._shards.copies.lock:
            if bans == self._shards.bans:
                tracked.ctl = raw if good else None
        return control if good else None

    def _go_on(self, tracked: Tracked, control: Control) -> None:
        """Copies that came before another server had a word in their shard may have missed what that has changed.

        It may have had one while nothing was heard here, and have given the slot back.
        """
        life = self.life_of(control)
        if tracked.life is not None and tracked.life != life:
            self._shards.empty((tracked,))
        tracked.life = life

    def life_of(self, control: Control) -> tuple[bytes, int]:
        """What changes with every other server that answers for the record. Apart so that tests can take it away."""
        return control.incarnation, control.generation

    def _keep(self, want: Want, reply: Any) -> None:
        copy = None
        if isinstance(reply, Exception):
            self._gone(want.tracked)
        else:
            blob, raw = reply
            control = self._keep_ctl(want.tracked, want.bans, raw)
            if blob is not None and control is not None:
                copy = self._copied(want, blob, control.floor)
        self._shards.keep(want, copy)

    def _copied(self, want: Want, blob: bytes, floor: int) -> Copy | None:
        meta = entry.unpack(blob)
        if meta is None or (left := seconds_left(meta, self._config)) <= 0:
            return None
        try:
            payload = bytes(self._codec.unpacked(meta.codec, meta.flags, memoryview(blob)[meta.payload_at :]))
            value = decode_plain(payload)
        except (Undecodable, msgspec.MsgspecError):
            return None
        least, due = max(meta.seq, floor), clock() + left
        shared = value if type(value) in _IMMUTABLE else ABSENT
        return Copy(want.place, want.stored, want.tracked, meta, payload, least, due, shared)


def seconds_left(meta: Meta, config: CacheConfig) -> float:
    """How long a copy is served: less than to its soft expiry, and to when it may be refreshed early."""
    now_ms = time.time() * 1000
    left = meta.hard_ms - now_ms if meta.hard_ms else float("inf")
    if meta.hard_ms and config.early_refresh:
        left -= min(left / 2, _LEFT_TO_CHANCE * meta.load_us / 1000 * config.early_refresh)
    if meta.soft_ms:
        left = min(left, meta.soft_ms - now_ms)
    return left / 1000


def _primary(role: Any) -> None:
    if role[0] != b"master":
        raise RedisError("this server is a replica; connect to the primary")


def _pack(command: tuple[Any, ...]) -> bytes:
    return bytes(hiredis.pack_command(command))
