"""What goes wrong in a run, each fault by name, at random moments that the run's seed decides.

A fault is one step that is repeated; what it has to undo or finish it gives to `Stage.after`. It is counted when it
has happened.
"""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, Protocol

from stoker.cache import Cache, CacheConfig, CacheUnavailable
from stoker.cache.shards import CLUSTER_SHARDS
from stoker.worker.verify.plan import Plan
from stoker.worker.verify.post import config_of
from stoker.worker.verify.server import Server
from stoker.worker.verify.workers import WORKERS, Workers
from stoker.worker.verify.world import TENANTS

NAMESPACE = "check"
MOST_SHARDS = CLUSTER_SHARDS
"""That any process of a run may have: those of a cluster, whose map was lost, by which it went."""
_RESHARDED_TO = 3
WORKERS_SHARE = 0.05
"""Of kills and pauses: a worker takes more than a second of a processor to start."""


def control_keys(namespace: str, shards: int = MOST_SHARDS) -> list[str]:
    """The keys that never expire: the map, and the control state of each shard."""
    names = [f"{{{namespace}:{n}}}:{name}" for n in range(shards) for name in ("ctl", "bans", "marks")]
    return [f"{{{namespace}}}:map", *names]


_POLICIES = ("allkeys-random", "allkeys-lru", "allkeys-lfu")
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
    workers: Workers | None

    def after(self, seconds: float, then: Callable[[], object]) -> None:
        """Call `then` later, from the same loop."""

    def replace(self, slot: int) -> None:
        """Start the role of a killed process anew, in a new process."""

    def happened(self, fault: str) -> None:
        """Count it, now that it has."""


class Fault(NamedTuple):
    """A step, the seconds between two of them, from and to, and what they are called when they are counted."""

    step: Callable[[Any], None]
    least: float
    most: float
    plural: str


def kill(stage: Stage) -> None:
    """SIGKILL anybody, at any instruction: one of the crew, seldom a worker with all its processes."""
    if stage.workers is not None and stage.chance.random() < WORKERS_SHARE:
        stage.workers.kill(stage.chance.randrange(WORKERS), stage.chance.randrange(2**32))
        stage.happened("kill")
        return
    slot = stage.chance.randrange(len(stage.pids))
    os.kill(stage.pids[slot], signal.SIGKILL)
    os.waitpid(stage.pids[slot], 0)
    stage.replace(slot)
    stage.happened("kill")


def pause(stage: Stage) -> None:
    """Stop a process, or a worker, for up to 1.2 s: longer than a lease, a job's lock and a message's."""
    seconds = stage.chance.uniform(0.05, 1.2)
    stage.happened("pause")
    if stage.workers is not None and stage.chance.random() < WORKERS_SHARE:
        workers = stage.workers
        child = workers.pause(stage.chance.randrange(WORKERS))
        stage.after(seconds, lambda: workers.go_on(child))
        return
    slot = stage.chance.randrange(len(stage.pids))
    pid = stage.pids[slot]
    os.kill(pid, signal.SIGSTOP)

    def go_on() -> None:
        if stage.pids[slot] == pid:
            os.kill(pid, signal.SIGCONT)

    stage.after(seconds, go_on)


def restart(stage: Stage) -> None:
    """Crash the server and bring it back from a dump that is 0.2 to 1.2 s old."""
    server = stage.server
    server.admin.save()

    def crash() -> None:
        if stage.server is server:
            server.restart()
            stage.happened("restart")

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
        stage.happened("failover")

    stage.after(stage.chance.uniform(0.2, 1.2), promote)


def control(stage: Stage) -> None:
    """Lose one of the control keys, or some together."""
    some = stage.chance.choice(_SOME_CONTROL)
    shard = stage.chance.randrange(stage.plan.shards)
    stage.server.admin.delete(*(name.replace(":0}", f":{shard}}}") for name in some))
    stage.happened("control")


def scripts(stage: Stage) -> None:
    """Lose the scripts."""
    stage.server.admin.script_flush()
    stage.happened("scripts")


def flush(stage: Stage) -> None:
    """Lose everything."""
    stage.server.admin.flushall()
    stage.happened("flush")


def evict(stage: Stage) -> None:
    """Let the server evict whatever it likes, control keys too, until a seventh of its memory is free."""
    admin = stage.server.admin
    admin.config_set("maxmemory-policy", stage.chance.choice(_POLICIES))
    admin.config_set("maxmemory", int(admin.info("memory")["used_memory"] * 0.85))
    stage.happened("evict")
    stage.after(0.3, lambda: _unlimited(stage))


def full(stage: Stage) -> None:
    """Let the server refuse to store anything for a moment."""
    admin = stage.server.admin
    admin.config_set("maxmemory-policy", "noeviction")
    admin.config_set("maxmemory", int(admin.info("memory")["used_memory"] * 0.85))
    stage.happened("full")
    stage.after(stage.chance.uniform(0.1, 0.4), lambda: _unlimited(stage))


def _unlimited(stage: Stage) -> None:
    stage.server.admin.config_set("maxmemory", 0)


def cut(stage: Stage) -> None:
    """Cut one reader off from the server, while all others go on."""
    reader, server = stage.chance.choice(stage.readers), stage.server
    server.admin.acl_deluser(reader)
    stage.happened("cut")

    def heal() -> None:
        if stage.server is server:
            server.let_in(reader)

    stage.after(stage.chance.uniform(0.2, 0.8), heal)


def freeze(stage: Stage) -> None:
    """Stop the server's process for a moment: nobody is answered, and no connection breaks."""
    # The run waits for it: it would hang if it asked such a server something.
    stage.server.freeze(stage.chance.uniform(0.05, 0.5))
    stage.happened("freeze")


def disconnect(stage: Stage) -> None:
    """Close everybody's connections."""
    stage.server.admin.client_kill_filter(_type="normal", skipme=True)
    stage.happened("disconnect")


def broker(stage: Stage) -> None:
    """Crash the broker, and bring it back after up to 0.8 s, from an old dump or with nothing."""
    if stage.workers is None:
        return
    server, chance = stage.workers.broker, stage.chance
    server.admin.save()

    def crash() -> None:
        server.crash()
        stage.happened("broker")
        if chance.random() < 0.3:
            server.forget()

    # Both by the time of this strike: then they are due before the next one, however late they are.
    crash_after = chance.uniform(0.2, 1.2)
    stage.after(crash_after, crash)
    stage.after(crash_after + chance.uniform(0.0, 0.8), server.start)


def reshard(stage: Stage) -> None:
    """Have the keys live elsewhere: in one to three shards, and one of the tenants in one of them alone, or none."""
    reshard_at(stage, config_of(stage.server.url, NAMESPACE))


def reshard_at(stage: Stage, config: CacheConfig) -> None:
    """The same of the cache that this configures."""
    chance = stage.chance
    shards = chance.randint(1, _RESHARDED_TO)
    tenants = [tenant for tenant in TENANTS if tenant is not None]
    pin = {chance.choice(tenants): chance.randrange(shards)} if chance.random() < 0.7 else {}
    try:
        with Cache(replace(config, timeout=0.5, connect_timeout=0.5)) as cache:
            cache.reshard(shards, pin=pin, unpin=set(tenants) - pin.keys())
    except CacheUnavailable:  # of another fault
        return
    stage.happened("reshard")


FAULTS = {
    "kill": Fault(kill, 0.1, 0.6, "kills"),
    "pause": Fault(pause, 0.05, 0.3, "pauses"),
    "restart": Fault(restart, 1.5, 2.5, "crashes"),
    "failover": Fault(failover, 1.5, 2.5, "failovers"),
    "control": Fault(control, 0.2, 1.0, "control_deletions"),
    "scripts": Fault(scripts, 0.5, 2.0, "script_flushes"),
    "flush": Fault(flush, 2.0, 3.0, "flushes"),
    "evict": Fault(evict, 0.7, 1.5, "evictions"),
    "full": Fault(full, 0.7, 1.5, "full_memories"),
    "cut": Fault(cut, 1.0, 1.5, "cuts"),
    "freeze": Fault(freeze, 0.5, 2.0, "freezes"),
    "disconnect": Fault(disconnect, 0.3, 1.0, "disconnects"),
    "reshard": Fault(reshard, 1.0, 3.0, "reshardings"),
    "broker": Fault(broker, 4.0, 8.0, "broker_restarts"),
}
