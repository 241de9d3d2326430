"""What a cache's copies and its streams share: the shards that are listened to, and what is on its way, without I/O.

For `near`, which serves copies, and `near_stream`, which hears what has become of them. Whatever changes something here
holds `lock`, but for what one thread notes of a shard that it has just read.
"""

from collections.abc import Collection, Iterable, Sequence

from stoker.cache.copies import Copies, Copy, Hearing, Tracked, Want
from stoker.cache.protocol import Name, Shard
from stoker.cache.tenancy import Place, place_of


class NearShards:
    """The shards of a placement, as the copies of one cache have them.

    Attributes:
        asked: Copies on their way.
        bans: How often this process has banned something.
    """

    def __init__(self, copies: Copies) -> None:
        self.copies = copies
        self.asked: dict[Place, Want] = {}
        self.bans = 0
        self._by_shard: dict[Shard, Tracked] = {}
        self._by_ctl: dict[bytes, Tracked] = {}

    def place(self, shards: Sequence[Shard]) -> None:
        """Keep copies of what is in these, and no others; those on their way are dropped when they come."""
        with self.copies.lock:
            self.let_go(self._by_shard.values())
            self._by_shard = {shard: Tracked(shard) for shard in shards}
            self._by_ctl = {shard.keys.ctl: tracked for shard, tracked in self._by_shard.items()}

    def forked(self) -> None:
        """Begin without copies: who listens is the parent's."""
        self.copies.forked()
        self.let_go(self._by_shard.values())
        self.bans = 0

    def of(self, shard: Shard) -> Tracked | None:
        """Its state; None if it is of a placement that is gone."""
        return self._by_shard.get(shard)

    def follow(self, tracked: Tracked, stream: Hearing) -> None:
        """Have its changes heard of there, unless it is listened to by now, or another has taken its place."""
        with self.copies.lock:
            if tracked.stream is None and self._by_shard.get(tracked.shard) is tracked:
                tracked.stream = stream
                stream.tracks.add(tracked)

    def let_go(self, shards: Iterable[Tracked]) -> None:
        """Nobody hears of changes of these any more: nothing that has come, or is to come, is served."""
        with self.copies.lock:
            gone = set(shards)
            self._forget(gone)
            for tracked in gone:
                tracked.until = 0.0
                if tracked.stream is not None:
                    tracked.stream.tracks.discard(tracked)
                if self._by_shard.get(tracked.shard) is tracked:
                    fresh = Tracked(tracked.shard)
                    self._by_shard[tracked.shard] = self._by_ctl[tracked.shard.keys.ctl] = fresh
            self.asked = {place: want for place, want in self.asked.items() if self._current(want)}

    def empty(self, shards: Collection[Tracked]) -> None:
        """All that has come of these may have changed; what is on its way is read afterwards."""
        with self.copies.lock:
            self._forget(set(shards))

    def _forget(self, shards: set[Tracked]) -> None:
        for tracked in shards:
            tracked.ctl = None
        self.copies.drop_of(shards)

    def changed(self, names: Sequence[bytes]) -> None:
        """Somebody has changed these keys."""
        with self.copies.lock:
            for name in names:
                if (tracked := self._by_ctl.get(name)) is not None:
                    tracked.ctl = None
                elif (copy := self.copies.named(name)) is not None:
                    self.copies.drop(copy)

    def forget(self, names: Sequence[Name]) -> None:
        """This process has changed these entries: drop their copies, those on their way too."""
        with self.copies.lock:
            for name in names:
                place = place_of(*name)
                self.asked.pop(place, None)
                if (copy := self.copies.find(place)) is not None:
                    self.copies.drop(copy)

    def banned(self) -> None:
        """This process has banned something: nothing is served before the control records have come anew."""
        with self.copies.lock:
            self.bans += 1
            for tracked in self._by_shard.values():
                tracked.ctl = None

    def keep(self, want: Want, copy: Copy | None) -> None:
        """What was asked for has come, if it is there: a copy, unless its entry was changed here meanwhile."""
        with self.copies.lock:
            if self.asked.get(want.place) is want:
                del self.asked[want.place]
                if copy is not None and self._current(want):
                    self.copies.add(copy)

    def _current(self, want: Want) -> bool:
        return self._by_shard.get(want.tracked.shard) is want.tracked

    def tally(self, *, look: bool) -> None:
        """Have counted what was served; `look` whose copies are not."""
        with self.copies.lock:
            if look:
                for tracked in self._by_shard.values():
                    tracked.idle += 1
            self.copies.tally()
