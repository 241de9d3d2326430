"""What goes wrong in a run, each fault by name, at random moments that the run's seed decides.

A fault is one step that is repeated; what it has to undo or finish it gives to `Stage.after`.
"""

import os
import signal
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from random import Random
from typing import NamedTuple, Protocol

from tests.consistency.plan import Plan
from tests.consistency.server import Server

NAMESPACE = "check"


MOST_SHARDS = 3


def control_keys(namespace: str, shards: int = MOST_SHARDS) -> list[str]:
    """The keys that never expire: the map, and the control state of each shard."""
    names = [f"{{{namespace}:{n}}}:{name}" for n in range(shards) for name in ("ctl", "bans", "marks")]
    return [f"{{{namespace}}}:map", *names]


_SOME_CONTROL = [some for size in (1, 2, 3, 4) for some in combinations(control_keys(NAMESPACE, 1), size)]


class Stage(Protocol):
    """What a fault can reach."""

    plan: Plan
    chance: Random
    server: Server
    servers: list[Server]
    address: Path
    folder: Path
    pids: list[int]
    readers: list[str]

    def after(self, seconds: float, then: Callable[[], object]) -> None:
        """Call `then` later, from the same loop."""

    def replace(self, slot: int) -> None:
        """Start the role of a killed process anew, in a new process."""


class Fault(NamedTuple):
    """A step, and the seconds between two of them, from and to."""

    step: Callable[[Stage], None]
    least: float
    most: float


def kill(stage: Stage) -> None:
    """SIGKILL anybody, at any instruction."""
    slot = stage.chance.randrange(len(stage.pids))
    os.kill(stage.pids[slot], signal.SIGKILL)
    os.waitpid(stage.pids[slot], 0)
    stage.replace(slot)


def pause(stage: Stage) -> None:
    """Stop a process for up to 1.2 s: longer than a lease."""
    slot = stage.chance.randrange(len(stage.pids))
    pid = stage.pids[slot]
    os.kill(pid, signal.SIGSTOP)

    def go_on() -> None:
        if stage.pids[slot] == pid:
            os.kill(pid, signal.SIGCONT)

    stage.after(stage.chance.uniform(0.05, 1.2), go_on)


def restart(stage: Stage) -> None:
    """Crash the server and bring it back from a dump that is 0.2 to 1.2 s old."""
    server = stage.server
    server.admin.save()

    def crash() -> None:
        if stage.server is server:
            server.restart()

    stage.after(stage.chance.uniform(0.2, 1.2), crash)


def failover(stage: Stage) -> None:
    """Promote a replica that has missed the last 0.2 to 1.2 s; the old primary dies first."""
    old = stage.server
    new = old.lagging_replica(stage.folder / f"server-{len(stage.servers)}")
    stage.servers.append(new)

    def promote() -> None:
        old.crash()
        new.take(stage.address)
        stage.server = new

    stage.after(stage.chance.uniform(0.2, 1.2), promote)


def control(stage: Stage) -> None:
    """Lose some of the control keys, or the scripts."""
    if stage.chance.random() < 0.2:
        stage.server.admin.script_flush()
    else:
        some = stage.chance.choice(_SOME_CONTROL)
        shard = stage.chance.randrange(stage.plan.shards)
        stage.server.admin.delete(*(name.replace(":0}", f":{shard}}}") for name in some))


def flush(stage: Stage) -> None:
    """Lose everything."""
    stage.server.admin.flushall()


def evict(stage: Stage) -> None:
    """Let the server evict at random, control keys too, until a seventh of its memory is free."""
    admin = stage.server.admin
    admin.config_set("maxmemory-policy", "allkeys-random")
    admin.config_set("maxmemory", int(admin.info("memory")["used_memory"] * 0.85))
    stage.after(0.3, lambda: _unlimited(stage))


def full(stage: Stage) -> None:
    """Let the server refuse to store anything for a moment."""
    admin = stage.server.admin
    admin.config_set("maxmemory-policy", "noeviction")
    admin.config_set("maxmemory", int(admin.info("memory")["used_memory"] * 0.85))
    stage.after(stage.chance.uniform(0.1, 0.4), lambda: _unlimited(stage))


def _unlimited(stage: Stage) -> None:
    stage.server.admin.config_set("maxmemory", 0)


def cut(stage: Stage) -> None:
    """Cut one reader off from the server, while all others go on."""
    reader, server = stage.chance.choice(stage.readers), stage.server
    server.admin.acl_deluser(reader)

    def heal() -> None:
        if stage.server is server:
            server.let_in(reader)

    stage.after(stage.chance.uniform(0.2, 0.8), heal)


FAULTS = {
    "kill": Fault(kill, 0.1, 0.6),
    "pause": Fault(pause, 0.05, 0.3),
    "restart": Fault(restart, 1.5, 2.5),
    "failover": Fault(failover, 1.5, 2.5),
    "control": Fault(control, 0.2, 1.0),
    "flush": Fault(flush, 2.0, 3.0),
    "evict": Fault(evict, 0.7, 1.5),
    "full": Fault(full, 0.7, 1.5),
    "cut": Fault(cut, 1.0, 1.5),
}
