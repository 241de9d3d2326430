"""Events that nobody takes, events that were given up, and how rules do."""

from collections.abc import Iterator

from stoker.tasks import runtime
from stoker.tasks.event_record import DeadLetter
from stoker.tasks.publish import incoming
from stoker.worker.doctor.check import Finding, error, ok, warning
from stoker.worker.doctor.system import System
from stoker.worker.terminal import counted

LONG_QUEUE = 1000
_SHOWN = 3


def check(system: System) -> Iterator[Finding]:
    _ = system.state_server
    store = runtime.current().events
    overview, dead = store.overview(1), store.dead()
    waiting = int(system.broker.client.llen(incoming(system.settings).name))
    problems = [*_not_taken(system, waiting), *_given_up(dead)]
    yield from problems
    if not problems:
        done = sum(count for (outcome, _), count in overview.counts.items() if outcome == "done")
        yield ok(f"{counted(len(overview.rules), 'rule')}; {counted(done, 'run')} done; no dead letter")


def _not_taken(system: System, waiting: int) -> Iterator[Finding]:
    if waiting and not system.nodes.serving[system.queue("events")]:
        yield error(
            f"published, and taken by no worker: {counted(waiting, 'event')}",
            "no worker serves the queue events, whose workers take what is published",
            "stoker worker -q events",
        )
    elif waiting > LONG_QUEUE:
        yield warning(
            f"published, and not yet taken: {counted(waiting, 'event')}",
            "more is published than the workers of the queue events take",
            "start more: stoker worker -q events --name events-2",
        )


def _given_up(dead: list[DeadLetter]) -> Iterator[Finding]:
    if dead:
        told = [
            f"{letter.name or letter.id} by {letter.rule or 'nobody'}: {letter.error[:200]}"
            for letter in dead
        ]
        yield warning(
            f"given up: {counted(len(dead), 'event')}",
            "; ".join(told[:_SHOWN]),
            "stoker events dead; stoker events replay --all when their cause is gone",
        )
