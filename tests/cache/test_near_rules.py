"""Rule 14 without a channel: what is said on it is told by hand."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import hiredis
import pytest

from stoker.cache import Cache, CacheConfig, near, near_stream
from stoker.cache.bans import Control
from stoker.cache.codec import Codec
from stoker.cache.copies import ABSENT, Copies, Copy, Tracked
from stoker.cache.near import Near
from stoker.cache.near_stream import Stream
from stoker.cache.protocol import Name
from stoker.cache.stats import Counters
from tests.cache.conftest import MakeCache
from tests.cache.copied import BOUND_S


@pytest.fixture
def writer(make_redis: MakeCache) -> Cache:
    """Another process, as it were."""
    return make_redis()


class Told:
    """A `Near` that is told by hand what its channel would say, with the entry of a real cache."""

    def __init__(self, cache: Cache) -> None:
        self.shard = cache._core.backend.shards[0]  # type: ignore[attr-defined]
        config = CacheConfig(backend="redis", redis_url="redis://nowhere", near_size=10)
        self.near = Near(
            config, Counters(), Codec(compress_above=None, max_value_bytes=1024), bool, lambda *_: False
        )
        self.here = True
        self.stream = self.near.new_stream(self.is_here())
        self.near.stream_of = lambda _: self.stream
        self.near.place([self.shard])
        cache.get("k")
        self.stream.opened(next(iter(self.shard.view.control.boots)))
        [self.found] = cache._run(self.shard.read([(None, "k")]))
        self.raw = self.shard.view.control.raw
        self.answer = [self.found.blob, self.raw]

    def is_here(self) -> Callable[[object], bool] | None:
        """On a server."""
        return None

    def ask(self) -> None:
        for _ in range(2):
            self.near.read([(None, "k")], [self.found], self.shard)
        assert self.stream.questions()

    def beat(self) -> None:
        self.stream.beat()
        self.vouch()

    def vouch(self) -> None:
        self.stream.heard([b"master"])
        self.stream.heard({b"flags": [b"on"]})

    def hear(self) -> None:
        """The entry, with the control record."""
        self.stream.heard(self.answer)

    def copied(self) -> None:
        self.ask()
        self.hear()
        self.beat()
        assert self.get() == "value"

    def make_room(self) -> None:
        """Others take the place of the copy."""
        copies = self.near.copies
        one = copies.find("k")
        assert one is not None
        given = one.meta, one.payload, one.least, one.due, one.value
        for n in range(30):
            copies.add(Copy(f"other {n}", b"other %d" % n, one.tracked, *given))
        assert copies.find("k") is None

    @property
    def tracked(self) -> Tracked:
        tracked = self.near._shards.of(self.shard)
        assert tracked is not None
        return tracked

    def get(self) -> object:
        return self.near.get("k", None, None)


@pytest.fixture
def told(writer: Cache) -> Told:
    writer.set("k", "value")
    return Told(writer)


class ToldByANode(Told):
    """The same of a cluster: the shard may be elsewhere by now."""

    def is_here(self) -> Callable[[object], bool]:
        return lambda _: self.here

    def beat(self, record: object = None) -> None:
        self.stream.beat()
        self.stream.heard(record or self.raw)
        self.vouch()


@pytest.fixture
def told_by_a_node(writer: Cache) -> ToldByANode:
    writer.set("k", "value")
    told = ToldByANode(writer)
    told.copied()
    return told


def test_a_copy_is_served_once_a_beat_was_answered(told: Told) -> None:
    told.ask()
    told.hear()
    assert told.get() is ABSENT
    told.beat()
    assert told.get() == "value"
    time.sleep(BOUND_S)
    assert told.get() is ABSENT


def test_a_copy_that_was_on_its_way_when_it_was_changed_here_is_not_kept(told: Told) -> None:
    told.ask()
    told.near.forget([(None, "k")])
    told.hear()
    told.stream.beat()
    assert told.near.state_of((None, "k")) == "absent"


def test_a_control_record_from_before_an_invalidation_of_ones_own_vouches_for_nothing(told: Told) -> None:
    told.ask()
    told.near.banned()
    told.hear()
    told.beat()
    assert told.near.state_of((None, "k")) == "held"
    assert told.get() is ABSENT


def test_a_flush_of_the_server_does_not_mix_up_the_answers_that_come_after_it(told: Told) -> None:
    told.ask()
    told.stream.beat()
    told.stream.heard(hiredis.PushNotification([b"invalidate", None]))
    told.hear()
    told.vouch()
    assert told.get() == "value"
    told.stream.heard(hiredis.PushNotification([b"invalidate", None]))
    assert told.get() is ABSENT


def test_what_is_no_entry_is_not_copied(told: Told) -> None:
    told.ask()
    told.answer[0] = b"l0123456789abcdef"
    told.hear()
    assert told.near.state_of((None, "k")) == "absent"


def test_a_server_that_the_control_record_does_not_name_is_not_believed(told: Told) -> None:
    told.stream.opened(b"another")
    told.ask()
    told.hear()
    told.beat()
    assert told.get() is ABSENT


def test_a_demoted_server_ends_the_channel(told: Told) -> None:
    told.stream.beat()
    with pytest.raises(Exception, match="replica"):
        told.stream.heard([b"slave", b"127.0.0.1"])


def test_the_bound_is_counted_from_before_the_beat_was_sent(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    told.ask()
    told.hear()
    monkeypatch.setattr(near_stream, "clock", lambda: 1000.0)
    told.stream.beat()
    monkeypatch.setattr(near_stream, "clock", lambda: 1005.0)
    told.vouch()
    assert told.tracked.until == pytest.approx(1000.0 + BOUND_S)


def test_a_later_answer_does_not_vouch_for_what_was_looked_at_before_it(
    writer: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that is held up in the middle of a read, while the channel catches up after a stall."""
    moments = [1000.0]
    meanwhile: list[Callable[[], None]] = []

    def clock() -> float:
        if meanwhile:
            meanwhile.pop()()
        return moments[0]

    for module in (near, near_stream):
        monkeypatch.setattr(module, "clock", clock)
    writer.set("k", "value")
    told = Told(writer)
    told.copied()

    def held_up() -> None:
        moments[0] += 10
        told.stream.changed([told.shard.keys.entry(None, "k")])
        told.beat()

    meanwhile.append(held_up)
    assert told.get() is ABSENT


@pytest.mark.parametrize(
    "error", ["MOVED 1 127.0.0.1:1", "ASK 1 127.0.0.1:1", "TRYAGAIN later", "CLUSTERDOWN"]
)
def test_what_is_of_a_slot_that_a_node_has_no_word_in_ends_at_once(
    told_by_a_node: ToldByANode, error: str
) -> None:
    told = told_by_a_node
    told.beat(hiredis.ReplyError(error))
    assert (told.get(), told.near.state_of((None, "k")), told.stream.needed) == (ABSENT, "absent", False)
    told.copied()  # once it is read there again


@pytest.mark.parametrize("error", ["MOVED 1 127.0.0.1:1", "ASK 1 127.0.0.1:1"])
def test_a_copy_on_its_way_whose_slot_has_gone_does_not_come(writer: Cache, error: str) -> None:
    writer.set("k", "value")
    told = ToldByANode(writer)
    told.ask()
    told.stream.heard(hiredis.ReplyError(error))
    assert not told.stream.needed
    told.copied()


def test_no_node_vouches_for_a_shard_whose_reads_go_elsewhere(told_by_a_node: ToldByANode) -> None:
    """As one that was stopped while its replica took over, and goes on: it does not know yet, this process does."""
    told = told_by_a_node
    told.here = False
    assert b"ctl" not in told.stream.beat()
    told.vouch()
    assert (told.get(), told.stream.needed) == (ABSENT, False)


@pytest.mark.parametrize("guarded", [True, False])
def test_copies_from_before_another_server_had_a_word_are_not_served(
    told_by_a_node: ToldByANode, monkeypatch: pytest.MonkeyPatch, guarded: bool
) -> None:
    """The slot went and came back, with all that it had but for what was changed there, while nothing was heard."""
    told = told_by_a_node
    if not guarded:
        monkeypatch.setattr(Stream, "life_of", lambda *_: told.tracked.life)
    control = told.shard.view.control
    later = control.raw.replace(b":%d:" % control.generation, b":%d:" % (control.generation + 4))
    assert later != control.raw
    told.shard.view = replace(told.shard.view, control=Control.parse(later))
    told.beat(later)
    assert told.get() == (ABSENT if guarded else "value")


def test_a_shard_that_nobody_reads_is_not_asked_for_until_somebody_does(told_by_a_node: ToldByANode) -> None:
    told = told_by_a_node
    for second in range(1, 5):
        told.near.tally_at(1000.0 * second)
    assert told.stream.rest()
    assert b"ctl" not in told.stream.beat()
    told.vouch()
    told.near.read([(None, "k")], [told.found], told.shard)
    assert not told.stream.rest()
    told.beat()
    assert told.get() == "value"


def test_a_finalizer_that_runs_while_a_copy_is_let_go_may_change_its_entry(told: Told) -> None:
    """It may begin with any object that is made, hence also where hits are counted, under the lock."""
    copies, seen = told.near.copies, list[Name]()

    def served(name: Name, _: int) -> bool:
        if not seen:
            seen.append(name)
            told.near.forget([name])
        return False

    copies._served = served
    ways: list[Callable[[], None]] = [
        lambda: told.near.forget([(None, "k")]),
        told.make_room,
        told.stream.lost,
    ]
    for let_go in ways:
        told.stream.opened(next(iter(told.shard.view.control.boots)))
        told.copied()
        seen.clear()
        let_go()
        assert seen == [(None, "k")]
        assert copies.find("k") is None
        assert copies.bytes == sum(one.size for one in copies._by_stored.values())


@pytest.mark.parametrize("crowded", [False, True])
def test_a_copy_that_goes_between_two_looks_of_its_reader_is_not_served(
    writer: Cache, monkeypatch: pytest.MonkeyPatch, crowded: bool
) -> None:
    """He has found it, and looks at the bound when a later beat was answered; or it had to make room before that, so
    that nobody looked for it any more when its entry was changed."""
    meanwhile: list[Callable[[], None]] = []

    class Slow(Copies):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            find = self.find

            def found(place: Any) -> Copy | None:
                copy = find(place)
                if meanwhile:
                    meanwhile.pop()()
                return copy

            self.find = found

    monkeypatch.setattr(near, "Copies", Slow)
    writer.set("k", "value")
    told = Told(writer)
    told.copied()

    def changed() -> None:
        if crowded:
            told.make_room()
        told.stream.changed([told.shard.keys.entry(None, "k")])
        told.beat()

    meanwhile.append(changed)
    assert told.get() is ABSENT
