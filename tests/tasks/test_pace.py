"""What an operator reads about a job's progress."""

import pytest

from stoker.cache import Step
from stoker.tasks.pace import Pace


def a_step(done: int, total: int | None = 1000, failed: int = 0) -> Step[object]:
    return Step(done, total, failed, {}, None, last=False)


def text(step: Step[object], *, before: int = 0, seconds: float = 12) -> str:
    pace = Pace(before, now=100)
    pace.add(step, now=100 + seconds)
    return pace.text(step)


@pytest.mark.parametrize(
    ("step", "shown"),
    [
        (a_step(420), "42.0% 420/1000 35/s ETA 17s"),
        (a_step(420, failed=3), "42.0% 420/1000 35/s 3 failed ETA 17s"),
        (a_step(420, total=None), "420 35/s"),
        (a_step(0), "0.0% 0/1000 0/s"),
        (a_step(0, total=0), "0/0 0/s"),
    ],
)
def test_progress_is_told_as_far_as_it_is_known(step: Step[object], shown: str) -> None:
    assert text(step) == shown


def test_the_rate_is_that_of_the_present_run() -> None:
    assert text(a_step(520), before=500, seconds=10) == "52.0% 520/1000 2/s ETA 240s"
