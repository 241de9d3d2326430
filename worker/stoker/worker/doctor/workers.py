"""Whether each queue has a worker, and how much waits in it."""

from collections.abc import Iterator

from stoker.tasks import names
from stoker.worker.doctor.check import Finding, error, ok, warning
from stoker.worker.doctor.system import System
from stoker.worker.terminal import counted

LONG_QUEUE = {"invalidate": 100}
"""Messages that may wait before a queue counts as long; until an invalidation has run, readers are served the old."""
LONG_QUEUE_ELSE = 1000


def check(system: System) -> Iterator[Finding]:
    for name in names.QUEUES:
        queue = system.queue(name)
        waiting = int(system.broker.client.llen(queue))
        serving = system.nodes.serving[queue]
        if not serving:
            yield error(
                f"no worker serves the queue {queue}, in which {counted(waiting, 'message')} wait",
                _why_nobody(system),
                f"stoker worker -q {name}",
            )
        elif waiting > LONG_QUEUE.get(name, LONG_QUEUE_ELSE):
            yield warning(
                f"{counted(waiting, 'message')} wait in the queue {queue} ({counted(len(serving), 'worker')})",
                "more is asked for than its workers do, or they are busy with something long",
                f"start more: stoker worker -q {name} --name {name}-2 --concurrency 4; `stoker jobs` shows what runs",
            )
        else:
            yield ok(f"{queue}: served by {', '.join(serving)}; {counted(waiting, 'message')} wait")
    if system.nodes.doubled:
        yield warning(
            f"more than one process is called {', '.join(system.nodes.doubled)}",
            "Flower and remote control cannot tell them apart",
            "give each worker of a machine its own name: stoker worker --name <name>",
        )


def _why_nobody(system: System) -> str:
    others = system.nodes.workers
    if not others:
        return "no worker answers at all: none runs, or none reaches this broker"
    return (
        f"those that answer ({', '.join(others)}) serve other queues, perhaps of another STOKER_NAMESPACE "
        f"(here: {system.settings.namespace})"
    )
