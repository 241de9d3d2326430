"""The work that a fleet shares: who takes what, what counts, and what survives a kill, a race and a lost answer."""

from collections.abc import Callable, Iterator

import pytest

from stoker.cache.budget import Limit
from stoker.cache.warm_report import Outcome
from stoker.cache.work import MOST_UNITS, Unit
from stoker.config import Settings
from stoker.tasks.errors import JobLost
from stoker.tasks.job import JobStore
from stoker.tasks.work import MOST_TAKEN, SharedWork
from tests.tasks.conftest import brief_locks
from tests.waiting import wait_until

Open = Callable[[], SharedWork]
JOB = "job-1"


@pytest.fixture
def open_work(settings: Settings) -> Iterator[Open]:
    """The work of one job, each as another process would have it."""
    opened: list[SharedWork] = []

    def make() -> SharedWork:
        opened.append(SharedWork(settings.state(), settings.namespace, settings.job, JOB))
        return opened[-1]

    yield make
    for work in opened:
        work.disconnect()


def names(first: int, count: int = 2) -> list[tuple[str | None, str]]:
    return [("acme", f"x:{n}") for n in range(first, first + count)]


def taken(work: SharedWork) -> Unit:
    unit = work.take()
    assert isinstance(unit, Unit)
    return unit


def all_written(unit: Unit) -> Outcome:
    return Outcome({"written": len(unit.names)})


def test_each_unit_is_taken_by_one_of_many_and_counted_once(open_work: Open) -> None:
    dealer, helper = open_work(), open_work()
    dealer.begin("v1", [Limit("plan:p", 10.0, 2)], "me")
    assert helper.limits() == [("plan:p", 10.0, 2)]
    assert dealer.deal(names(0), Outcome())
    assert dealer.deal(names(2), Outcome())
    one, other = taken(dealer), taken(helper)
    assert sorted([*one.names, *other.names]) == names(0, 4)
    assert isinstance(helper.take(), float), "more may be dealt"
    dealer.close()
    for _ in range(2):  # the first answer may have been lost
        helper.done(other, all_written(other))
    assert isinstance(helper.take(), float), "the other unit may come back"
    dealer.done(one, all_written(one))
    assert helper.take() is None
    tally = dealer.tally()
    assert (tally.dealt, tally.left, tally.closed, tally.report.written) == (4, 0, True, 4)


def test_units_are_taken_in_the_order_in_which_they_were_dealt(open_work: Open) -> None:
    work = open_work()
    work.begin("v1", [], "me")
    for first in range(12):
        work.deal(names(first, 1), Outcome())
    assert [list(taken(work).names) for _ in range(12)] == [names(n, 1) for n in range(12)]


@brief_locks
def test_what_a_killed_worker_had_taken_is_taken_by_another(open_work: Open) -> None:
    killed, alive = open_work(), open_work()
    killed.begin("v1", [], "me")
    killed.deal(names(0), Outcome())
    unit = taken(killed)
    assert isinstance(alive.take(), float)
    wait_until(lambda: isinstance(alive.take(), Unit))
    alive.done(unit, all_written(unit))
    killed.done(unit, all_written(unit))  # it was only asleep
    assert alive.tally().report.written == 2


@brief_locks
def test_what_is_kept_stays_with_its_taker(open_work: Open) -> None:
    slow, other = open_work(), open_work()
    slow.begin("v1", [], "me")
    slow.deal(names(0), Outcome())
    slow.deal(names(2), Outcome())
    with slow.kept():
        taken(slow)
        left_behind = taken(other)  # nobody keeps that one
        wait_until(lambda: isinstance(unit := other.take(), Unit) and unit == left_behind)
        assert isinstance(other.take(), float)


@brief_locks
def test_a_unit_that_kills_its_takers_is_given_up(open_work: Open) -> None:
    work = open_work()
    work.begin("v1", [], "me")
    work.deal(names(0), Outcome())
    work.close()
    for _ in range(MOST_TAKEN + 1):
        work.put_back(taken(work))  # in good order: that does not count
    for _ in range(MOST_TAKEN):
        wait_until(lambda: isinstance(work.take(), Unit))
    wait_until(lambda: work.take() is None)
    report = work.tally().report
    assert report.failed == 2
    assert "workers were killed" in report.errors[0][1]


def test_what_is_held_or_failing_becomes_units_of_their_own(open_work: Open) -> None:
    work = open_work()
    work.begin("v1", [], "me")
    work.deal(names(0, 4), Outcome())
    work.close()
    unit = taken(work)
    work.done(unit, Outcome({"written": 1}, [], held=names(1, 1), failing=names(2, 2)))
    tally = work.tally()
    assert (tally.left, tally.failing) == (3, 2)
    again: dict[int, Unit] = {}

    def both_came() -> bool:
        if isinstance(unit := work.take(), Unit):
            again[unit.round] = unit
        return len(again) == 2

    wait_until(both_came)
    held, failing = again[0], again[1]
    assert held.since > 0
    assert list(failing.names) == names(2, 2)
    assert failing.round == 1
    work.done(held, all_written(held))
    work.done(failing, Outcome({"written": 1, "failed": 1}, [("x:3", "no")]))
    tally = work.tally()
    assert (tally.left, tally.failing, tally.report.written, tally.report.errors) == (
        0,
        0,
        3,
        (("x:3", "no"),),
    )


def test_a_coordinator_goes_on_where_the_last_one_was_and_a_stale_one_deals_nothing(open_work: Open) -> None:
    old = open_work()
    assert not old.has_begun()
    old.begin("v1", [], "me")
    old.deal(names(0), Outcome({"failed": 1}, [("", "must not be empty")]))
    new = open_work()
    assert new.has_begun()
    new.begin("v1", [], "another")
    assert new.tally().dealt == 3
    assert new.deal(names(3), Outcome())
    assert not old.deal(names(3), Outcome())
    assert new.tally().dealt == 5


def test_other_keys_are_begun_anew(open_work: Open) -> None:
    work = open_work()
    work.begin("v1", [], "me")
    work.deal(names(0), Outcome())
    unit = taken(work)
    work.begin("v2", [], "another")
    work.deal(names(0), Outcome())
    work.done(unit, all_written(unit))  # of what is not to be done any more
    assert work.tally()[:2] == (2, 2)
    assert work.tally().report.written == 0


def test_no_more_is_dealt_ahead_than_there_is_room_for(open_work: Open) -> None:
    work = open_work()
    work.begin("v1", [], "me")
    dealt = [work.deal(names(n, 1), Outcome()) for n in range(MOST_UNITS + 1)]
    assert dealt == [True] * MOST_UNITS + [False]


def test_a_stop_leaves_the_rest_undone(open_work: Open) -> None:
    work, other = open_work(), open_work()
    work.begin("v1", [], "me")
    work.deal(names(0, 4), Outcome())
    work.deal(names(4, 4), Outcome())
    unit = taken(work)
    work.done(unit, Outcome(failing=names(0, 4)))
    for _ in range(2):
        work.stop("4 of 4 loads failed", ("x:3", "no"))
    assert other.take() is None
    assert not other.deal(names(8), Outcome())
    tally = work.tally()
    assert (tally.dealt, tally.left, tally.closed) == (4, 0, True)
    assert (tally.report.failed, tally.report.stopped) == (4, "4 of 4 loads failed")
    assert tally.report.errors == (("x:3", "no"),)


def test_work_that_is_gone_is_over_for_helpers_and_lost_for_its_coordinator(
    open_work: Open, jobs: JobStore
) -> None:
    work, helper = open_work(), open_work()
    work.begin("v1", [], "me")
    work.deal(names(0), Outcome())
    unit = taken(helper)
    jobs.open(JOB, "warm", {}, None)
    jobs.finish(JOB, "aborted", "any")
    assert helper.take() is None
    helper.done(unit, all_written(unit))
    work.close()
    for ask in (helper.limits, work.tally, lambda: work.deal(names(2), Outcome())):
        with pytest.raises(JobLost):
            ask()
