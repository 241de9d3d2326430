"""What the tests of warm plans share: functions that could be plans, their loader, and a run in this process."""

from collections.abc import Iterable, Iterator
from typing import Any, cast

from celery import Task

from stoker import tasks
from stoker.cache import loader
from stoker.tasks.plan_record import PlanRecord
from stoker.tasks.plan_store import PlanStore

GIVEN: dict[str, Any] = {"keys": ["planned:1"], "every": "1h"}
CLOSED = "redis://127.0.0.1:1/0"


@loader("planned:{number}")
def _load(number: int) -> int:
    if number == 13:
        raise ValueError("no coal")
    return number


def yields_keys() -> Iterator[str | tuple[str | None, str]]:
    yield from (f"planned:{number}" for number in range(5))
    yield "umbrella", "planned:1"


def yields_rubbish() -> Iterator[Any]:
    yield from ["planned:1", "", 7, ("acme", "planned:2", 3), ([], "planned:3"), "planned:4"]


def breaks_off() -> Iterator[str]:
    yield "planned:1"
    raise OSError("the database went away")


def yields_nothing() -> Iterable[str]:
    return ()


def takes_arguments(number: int) -> Iterator[str]:
    yield str(number)


async def is_asynchronous() -> None: ...


def plan(store: PlanStore, name: str = "a") -> PlanRecord:
    return store.read().plans[name]


def make_due(store: PlanStore, name: str = "a", by_ms: int = 1) -> None:
    """Let its next due time be `by_ms` ago."""
    store.update(name, lambda record, now_ms: record and record.with_(next_ms=now_ms - by_ms))


def run(job_id: str) -> str:
    """Run a job's task here, as a worker would; returns Celery's state."""
    task = cast("Task[Any, Any]", tasks.warm)
    return str(task.apply(kwargs={"job_id": job_id}, task_id=job_id).state)
