"""Rule 14 without a channel: what is said on it is told by hand."""

import time
from collections.abc import Callable

import hiredis
import pytest

from stoker.cache import Cache, CacheConfig, near
from stoker.cache.codec import Codec
from stoker.cache.copies import ABSENT
from stoker.cache.near import Near
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
        self.near.place([self.shard])
        cache.get("k")
        self.near.opened(next(iter(self.shard.view.control.boots)))
        [self.found] = cache._run(self.shard.read([(None, "k")]))
        self.answer = [self.found.blob, self.shard.view.control.raw]

    def ask(self) -> None:
        for _ in range(2):
            self.near.read([(None, "k")], [self.found], self.shard)
        assert self.near.questions()

    def beat(self) -> None:
        self.near.beat()
        self.near.heard([b"master"])
        self.near.heard({b"flags": [b"on"]})

    def hear(self) -> None:
        """The control record, and then the entry with it."""
        self.near.heard(self.answer[1])
        self.near.heard(self.answer)


@pytest.fixture
def told(writer: Cache) -> Told:
    writer.set("k", "value")
    return Told(writer)


def test_a_copy_is_served_once_a_beat_was_answered(told: Told) -> None:
    told.ask()
    told.hear()
    assert told.near.get("k", None, None) is ABSENT
    told.beat()
    assert told.near.get("k", None, None) == "value"
    time.sleep(BOUND_S)
    assert told.near.get("k", None, None) is ABSENT


def test_a_copy_that_was_on_its_way_when_it_was_changed_here_is_not_kept(told: Told) -> None:
    told.ask()
    told.near.forget([(None, "k")])
    told.hear()
    told.near.beat()
    assert told.near.state_of((None, "k")) == "absent"


def test_a_control_record_from_before_an_invalidation_of_ones_own_vouches_for_nothing(told: Told) -> None:
    told.ask()
    told.near.banned()
    told.hear()
    told.beat()
    assert told.near.state_of((None, "k")) == "held"
    assert told.near.get("k", None, None) is ABSENT


def test_a_flush_of_the_server_does_not_mix_up_the_answers_that_come_after_it(told: Told) -> None:
    told.ask()
    told.near.beat()
    told.near.heard(hiredis.PushNotification([b"invalidate", None]))
    told.hear()
    told.near.heard([b"master"])
    told.near.heard({b"flags": [b"on"]})
    assert told.near.get("k", None, None) == "value"
    told.near.heard(hiredis.PushNotification([b"invalidate", None]))
    assert told.near.get("k", None, None) is ABSENT


def test_what_is_no_entry_is_not_copied(told: Told) -> None:
    told.ask()
    told.answer[0] = b"l0123456789abcdef"
    told.hear()
    assert told.near.state_of((None, "k")) == "absent"


def test_a_server_that_the_control_record_does_not_name_is_not_believed(told: Told) -> None:
    told.near.opened(b"another")
    told.ask()
    told.hear()
    told.beat()
    assert told.near.get("k", None, None) is ABSENT


def test_a_demoted_server_ends_the_channel(told: Told) -> None:
    told.near.beat()
    with pytest.raises(Exception, match="replica"):
        told.near.heard([b"slave", b"127.0.0.1"])


def test_the_bound_is_counted_from_before_the_beat_was_sent_and_by_a_clock_that_does_not_sleep(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert getattr(time, "CLOCK_BOOTTIME", None) is None or near.clock is not time.monotonic
    monkeypatch.setattr(near, "clock", lambda: 1000.0)
    told.near.beat()
    monkeypatch.setattr(near, "clock", lambda: 1005.0)
    told.near.heard([b"master"])
    told.near.heard({b"flags": [b"on"]})
    assert told.near.until == pytest.approx(1000.0 + BOUND_S)


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

    monkeypatch.setattr(near, "clock", clock)
    writer.set("k", "value")
    told = Told(writer)
    told.ask()
    told.hear()
    told.beat()
    assert told.near.get("k", None, None) == "value"

    def held_up() -> None:
        moments[0] += 10
        told.near.changed([told.shard.keys.entry(None, "k")])
        told.beat()

    meanwhile.append(held_up)
    assert told.near.get("k", None, None) is ABSENT
