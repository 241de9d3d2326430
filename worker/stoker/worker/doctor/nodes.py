"""Which workers and beats answer through the broker, and which queues they serve."""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from stoker.tasks.app import app

ASK_FOR_S = 2.0
"""How long somebody who is missing is asked for again."""
_REPLY_S = 0.7
"""Wait for one more reply."""


class Nodes(NamedTuple):
    """Who answers.

    Attributes:
        serving: Queue, by its name on the broker, to the workers that serve it.
        workers: All workers, of other programs too.
        beats: What answers a ping and serves no queue.
        doubled: Names that more than one process has.
    """

    serving: dict[str, list[str]]
    workers: list[str]
    beats: list[str]
    doubled: list[str]


def ask(queues: Sequence[str]) -> Nodes:
    """Ask everybody, and again while a queue or beat is missing. Takes 1 to 4 s."""
    deadline = time.monotonic() + ASK_FOR_S
    answered: Counter[str] = Counter()
    queues_of: dict[str, set[str]] = {}
    while True:
        pongs = Counter(name for name, _ in _replies("ping"))
        answered |= pongs
        for name, served in _replies("active_queues", most=len(pongs) or None):
            queues_of.setdefault(name, set()).update(queue["name"] for queue in served)
        serving = {queue: sorted(n for n, served in queues_of.items() if queue in served) for queue in queues}
        beats = sorted(answered.keys() - queues_of.keys())
        if (beats and all(serving.values())) or time.monotonic() > deadline:
            doubled = sorted(name for name, count in answered.items() if count > 1)
            return Nodes(serving, sorted(queues_of), beats, doubled)


def _replies(command: str, most: int | None = None) -> list[tuple[str, Any]]:
    replies: Any = app.control.broadcast(command, reply=True, timeout=_REPLY_S, limit=most)
    return [(str(name), answer) for reply in replies or () for name, answer in reply.items()]
