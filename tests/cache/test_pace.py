"""Turns of a warm with a rate."""

import threading

import pytest

from stoker.cache.budget import Limit
from stoker.cache.pace import PACED, Pace
from stoker.cache.programs import Sleep, Wait

SLOW = Limit("plan:nightly", rate=100)
OTHER = Limit("plan:hourly", rate=100)


@pytest.fixture
def pace() -> Pace:
    return Pace(threading.Event)


def test_one_lane_has_the_turn_until_all_its_round_trips_are_done(pace: Pace) -> None:
    with pace.turn(SLOW) as first, pace.turn(SLOW) as second:
        assert list(first.wait()) == []
        waiting = second.wait()
        effect = next(waiting)
        assert isinstance(effect, Wait)
        assert not effect.landed.is_set()
        assert isinstance(next(first.wait()), Sleep), "its own next one only has to come late enough"
    assert effect.landed.is_set()


def test_a_lane_that_fails_gives_the_turn_back(pace: Pace) -> None:
    def fail() -> None:
        with pace.turn(SLOW) as first:
            assert list(first.wait()) == []
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with pace.turn(SLOW) as second:
        assert isinstance(next(second.wait()), Sleep), "the server has its rest, but the turn is free"


def test_limits_do_not_wait_for_each_other(pace: Pace) -> None:
    with pace.turn(SLOW) as first, pace.turn(OTHER) as second, pace.turn(None) as any_time:
        assert list(first.wait()) == list(second.wait()) == list(any_time.wait()) == []
        assert list(any_time.wait()) == []


def test_pages_are_small_within_a_limit_only(pace: Pace) -> None:
    with pace.turn(SLOW) as turn, pace.turn(None) as any_time:
        assert turn.pages(2 * PACED + 1) == [
            slice(0, PACED),
            slice(PACED, 2 * PACED),
            slice(2 * PACED, 3 * PACED),
        ]
        assert turn.pages(2 * PACED + 1, times=4) == [slice(0, 4 * PACED)]
        assert any_time.pages(1000) == [slice(0, 1000)]
        assert any_time.pages(0) == []
