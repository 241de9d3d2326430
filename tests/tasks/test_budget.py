"""The budgets that workers share: a rate, a number of units at once, and slowing down for an origin in trouble."""

import threading
import time
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from stoker.cache.budget import Limit
from stoker.config import Settings
from stoker.tasks.budget import FleetBudget
from stoker.tasks.errors import StateUnavailable
from stoker.worker.embedded import free_port

UNITS = count()


Open = Callable[..., FleetBudget]


@pytest.fixture
def open_budget(settings: Settings) -> Iterator[Open]:
    """Budgets of one namespace, each as another process would have it."""
    opened: list[FleetBudget] = []

    def make(longest: float = 60) -> FleetBudget:
        opened.append(FleetBudget(settings.state(), settings.namespace, longest))
        return opened[-1]

    yield make
    for budget in opened:
        budget.close()


def begin(budget: FleetBudget, limit: Limit, keys: int) -> tuple[str, float]:
    """Ask for a unit. Returns its name and the seconds to wait."""
    unit = str(next(UNITS))
    return unit, budget.ask(limit, unit, keys)


def end(
    budget: FleetBudget, limit: Limit, keys: int, unit: str = "?", failed: int = 0, seconds: float = 0.01
) -> float:
    return budget.done(limit, unit, asked=keys, loaded=keys - failed, failed=failed, seconds=seconds)


def test_all_together_load_no_more_keys_a_second_than_the_rate(open_budget: Open) -> None:
    limit = Limit("loader:x", rate=200)
    budgets = [open_budget() for _ in range(3)]
    rounds = [loaded_together(budgets, limit) for _ in range(2)]
    for loaded, took in rounds:
        most = 200 * took + 50 + 10  # the rate, a quarter of a second's keys at once, and the last batch
        assert loaded <= most
    assert any(loaded > 0.5 * 200 * took for loaded, took in rounds), rounds  # a busy machine may hold up one


def loaded_together(budgets: list[FleetBudget], limit: Limit) -> tuple[int, float]:
    """Load for a while, batches of ten as they are granted; returns the keys, and the seconds until the last."""
    granted: list[float] = []
    began = time.monotonic()
    over = began + 0.8

    def warm(budget: FleetBudget) -> None:
        while time.monotonic() < over:
            unit, wait = begin(budget, limit, 10)
            if wait:
                time.sleep(wait)
            else:
                granted.append(time.monotonic())
                end(budget, limit, 10, unit)

    threads = [threading.Thread(target=warm, args=(budget,)) for budget in budgets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 10 * len(granted), max(granted) - began


def test_no_more_batches_at_once_and_one_that_was_killed_counts_no_longer_than_it_may_last(
    open_budget: Open,
) -> None:
    limit = Limit("loader:x", concurrency=2)
    one, other, third = open_budget(1.0), open_budget(1.0), open_budget(1.0)
    unit, wait = begin(one, limit, 5)
    assert wait == begin(other, limit, 5)[1] == 0
    assert begin(third, limit, 5)[1] > 0
    end(one, limit, 5, unit)
    assert begin(third, limit, 5)[1] == 0
    assert begin(one, limit, 5)[1] > 0
    deadline = time.monotonic() + 5  # the others were killed: nobody tells that they ended
    while wait := begin(one, limit, 5)[1]:
        assert time.monotonic() < deadline
        time.sleep(wait)


def test_keys_that_were_fresh_cost_nothing(open_budget: Open) -> None:
    limit = Limit("loader:x", rate=40)
    budget = open_budget()
    for _ in range(20):
        unit, wait = begin(budget, limit, 10)
        assert wait == 0
        budget.done(limit, unit, asked=10, loaded=0, failed=0, seconds=0)
    unit, wait = begin(budget, limit, 10)
    assert wait == 0
    end(budget, limit, 10, unit)
    assert begin(budget, limit, 10)[1] > 0


def test_an_answer_that_was_lost_costs_nothing(open_budget: Open) -> None:
    limit = Limit("plan:nightly", rate=40, concurrency=1)
    budget = open_budget()
    assert budget.ask(limit, "one", 10) == budget.ask(limit, "one", 10) == 0
    for _ in range(2):
        budget.done(limit, "one", asked=10, loaded=0, failed=0, seconds=0)
    assert budget.ask(limit, "two", 10) == 0
    end(budget, limit, 10, "two")
    assert budget.ask(limit, "three", 10) > 0


@pytest.mark.parametrize("trouble", [{"failed": 5}, {"seconds": 1.0}])
def test_everybody_slows_down_for_an_origin_in_trouble_and_speeds_up_again(
    open_budget: Open, trouble: dict[str, float]
) -> None:
    limit = Limit("loader:x")
    budget, other = open_budget(), open_budget()
    for _ in range(3):
        assert end(budget, limit, 10) == 0
    rests = [end(budget, limit, 10, **trouble) for _ in range(3)]  # type: ignore[arg-type]
    assert 0 < rests[0] < rests[1] < rests[2]
    assert end(other, limit, 10) > 0, "another process is told as well"
    for _ in range(20):
        end(other, limit, 10)
    assert end(budget, limit, 10) == 0


def test_a_state_server_that_is_away_is_an_error_not_a_licence() -> None:
    budget = FleetBudget(f"redis://127.0.0.1:{free_port()}", "away", 60)
    with pytest.raises(StateUnavailable):
        budget.ask(Limit("loader:x", rate=1), "1", 1)
    budget.close()
