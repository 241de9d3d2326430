"""The budgets that workers share: a rate, a number of batches at once, and slowing down for an origin in trouble."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from stoker.cache.loaders import Loader
from stoker.config import Settings
from stoker.tasks.budget import FleetBudget
from stoker.tasks.errors import StateUnavailable
from stoker.worker.embedded import free_port


def load(n: str) -> str:
    return n


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


def ended(budget: FleetBudget, loader: Loader, keys: int, failed: int = 0, seconds: float = 0.01) -> float:
    return budget.done(loader, asked=keys, loaded=keys - failed, failed=failed, seconds=seconds)


def test_all_together_load_no_more_keys_a_second_than_the_rate(open_budget: Open) -> None:
    loader = Loader("x:{n}", load, rate=200)
    granted: list[float] = []
    over = time.monotonic() + 1.5

    def warm(budget: FleetBudget) -> None:
        while time.monotonic() < over:
            if wait := budget.ask(loader, 10):
                time.sleep(wait)
            else:
                granted.append(time.monotonic())
                ended(budget, loader, 10)

    threads = [threading.Thread(target=warm, args=(open_budget(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = granted[-1] - granted[0]
    most = 200 * took + 50 + 10  # the rate, a quarter of a second's keys at once, and the last batch
    assert 0.5 * 200 * took < 10 * len(granted) <= most


def test_no_more_batches_at_once_and_one_that_was_killed_counts_no_longer_than_it_may_last(
    open_budget: Open,
) -> None:
    loader = Loader("x:{n}", load, concurrency=2)
    one, other, third = open_budget(0.3), open_budget(0.3), open_budget(0.3)
    assert one.ask(loader, 5) == other.ask(loader, 5) == 0
    assert third.ask(loader, 5) > 0
    ended(one, loader, 5)
    assert third.ask(loader, 5) == 0
    assert one.ask(loader, 5) > 0
    deadline = time.monotonic() + 5  # the others were killed: nobody tells that they ended
    while wait := one.ask(loader, 5):
        assert time.monotonic() < deadline
        time.sleep(wait)


def test_keys_that_were_fresh_cost_nothing(open_budget: Open) -> None:
    loader = Loader("x:{n}", load, rate=40)
    budget = open_budget()
    for _ in range(20):
        assert budget.ask(loader, 10) == 0
        budget.done(loader, asked=10, loaded=0, failed=0, seconds=0)
    assert budget.ask(loader, 10) == 0
    ended(budget, loader, 10)
    assert budget.ask(loader, 10) > 0


@pytest.mark.parametrize("trouble", [{"failed": 5}, {"seconds": 1.0}])
def test_everybody_slows_down_for_an_origin_in_trouble_and_speeds_up_again(
    open_budget: Open, trouble: dict[str, float]
) -> None:
    loader = Loader("x:{n}", load)
    budget, other = open_budget(), open_budget()
    for _ in range(3):
        assert ended(budget, loader, 10) == 0
    rests = [ended(budget, loader, 10, **trouble) for _ in range(3)]  # type: ignore[arg-type]
    assert 0 < rests[0] < rests[1] < rests[2]
    assert ended(other, loader, 10) > 0, "another process is told as well"
    for _ in range(20):
        ended(other, loader, 10)
    assert ended(budget, loader, 10) == 0


def test_a_state_server_that_is_away_is_an_error_not_a_licence() -> None:
    budget = FleetBudget(f"redis://127.0.0.1:{free_port()}", "away", 60)
    with pytest.raises(StateUnavailable):
        budget.ask(Loader("x:{n}", load), 1)
    budget.close()
