"""What the tests of events share: rules that count their runs, and a run of the task in this process."""

from collections import Counter
from dataclasses import dataclass
from typing import Any, cast

from celery import Task

from stoker import tasks
from stoker.cache import loader
from stoker.tasks import Action, Event, Invalidate, Warm, events
from stoker.tasks.events import Event as Published

RAN: Counter[str] = Counter()


@loader("reacting:{number}")
def _load(number: int) -> int:
    return number


def counts(event: Event) -> None:
    RAN[event.id] += 1


def invalidates(event: Event) -> Action:
    return Invalidate(pattern=f"user:{event['id']}:*")


def invalidates_and_warms(event: Event) -> list[Action]:
    key = f"reacting:{event['number']}"
    return [Warm(keys=[key]), Invalidate(keys=[key])]


def gives_rubbish(event: Event) -> Any:
    return event["rubbish"]


def raises(event: Event) -> None:
    RAN[event.id] += 1
    raise ValueError("no coal")


def takes_two(event: Event, other: Event) -> None: ...


async def is_asynchronous(event: Event) -> None: ...


def changes_its_event(event: Event) -> None:
    event.payload["tags"].clear()
    raise ValueError("no coal")


def nested(levels: int) -> list[Any]:
    """A list in a list and so on."""
    found: list[Any] = []
    for _ in range(levels - 1):
        found = [found]
    return found


@dataclass(frozen=True)
class Unknown(Action):
    """An action of an app's own."""

    def check(self) -> None: ...


def wants_the_unknown(event: Event) -> list[Action]:
    return [Invalidate(keys=[f"reacting:{event['number']}"]), Unknown()]


def an_event(name: str = "user.updated", tenant_id: str | None = None, **payload: Any) -> Published:
    return events.make(name, payload, tenant_id, None)


def react(event: Published | dict[str, Any], rule: str | None = None) -> str:
    """Run the task here, as a worker would; returns Celery's state."""
    fields = event if isinstance(event, dict) else event.model_dump()
    task = cast("Task[Any, Any]", tasks.react)
    message = {"event": fields, "rule": rule} if rule else {"event": fields}
    return str(task.apply(kwargs=message).state)
