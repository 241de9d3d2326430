"""What goes wrong in a run on a cluster, as `faults` has it for a server; those of processes are the same."""

from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from stoker.worker.verify import faults
from stoker.worker.verify.faults import FAULTS, NAMESPACE, Fault, control_keys
from stoker.worker.verify.nodes import TROUBLE, Nodes
from stoker.worker.verify.post import config_of

_LOOK_S = 0.1
_LOSE_THE_MAP = 0.2


class Stage(faults.Stage, Protocol):
    """What a fault can reach; there is no single server."""

    nodes: Nodes


def failover(stage: Stage) -> None:
    """A primary dies whose replica has missed the last 0.2 to 1.2 s; it comes back once the replica has taken over."""
    nodes = stage.nodes
    if nodes.busy or not nodes.mended():
        return

    def die(port: int) -> None:
        nodes.kill(port)
        stage.happened("failover")
        come_back()

    def come_back() -> None:
        nodes.busy = not nodes.mended()
        if nodes.busy:
            stage.after(_LOOK_S, come_back)

    with suppress(*TROUBLE):
        port = stage.chance.choice(nodes.primaries())
        nodes.fall_behind(port)
        nodes.busy = True
        stage.after(stage.chance.uniform(0.2, 1.2), lambda: die(port))


def move(stage: Stage) -> None:
    """Move the slot of a shard, or of the map, to another node at once."""
    names = [name for name in control_keys(NAMESPACE, stage.plan.shards) if name.endswith(("ctl", "map"))]
    with suppress(*TROUBLE):
        if stage.nodes.move(stage.chance.choice(names), stage.chance):
            stage.happened("move")


def control(stage: Stage) -> None:
    """Lose the map, or some of a shard's control keys."""
    chance, shards = stage.chance, stage.plan.shards
    the_map, *names = control_keys(NAMESPACE, shards)
    shard = f"{{{NAMESPACE}:{chance.randrange(shards)}}}"
    own = [name for name in names if name.startswith(shard)]
    lost = [the_map] if chance.random() < _LOSE_THE_MAP else chance.sample(own, chance.randint(1, len(own)))
    with suppress(*TROUBLE):
        owner = stage.nodes.owner(lost[0])
        if owner is not None:
            with stage.nodes.admin(owner) as client:
                client.delete(*lost)
            stage.happened("control")


def flush(stage: Stage) -> None:
    """A node loses everything."""
    with suppress(*TROUBLE), stage.nodes.admin(_any(stage)) as client:
        client.flushall()
        stage.happened("flush")


def scripts(stage: Stage) -> None:
    """A node loses its scripts."""
    with suppress(*TROUBLE), stage.nodes.admin(_any(stage)) as client:
        client.script_flush()
        stage.happened("scripts")


def freeze(stage: Stage) -> None:
    """A node stands still for less than the others wait for it."""
    with suppress(*TROUBLE):
        stage.nodes.freeze(_any(stage), stage.chance.uniform(0.05, 0.5))
        stage.happened("freeze")


def disconnect(stage: Stage) -> None:
    """A node closes everybody's connections."""
    with suppress(*TROUBLE), stage.nodes.admin(_any(stage)) as client:
        client.client_kill_filter(_type="normal", skipme=True)
        stage.happened("disconnect")


def reshard(stage: Stage) -> None:
    """As on one server."""
    faults.reshard_at(stage, replace(config_of(stage.nodes.url, NAMESPACE), cluster=True))


def _any(stage: Stage) -> int:
    return stage.chance.choice(stage.nodes.primaries())


CLUSTER_FAULTS = {
    "kill": FAULTS["kill"],
    "pause": FAULTS["pause"],
    "failover": Fault(failover, 1.5, 3.0, "failovers"),
    "move": Fault(move, 0.3, 1.0, "moves"),
    "control": Fault(control, 0.2, 1.0, "control_deletions"),
    "scripts": Fault(scripts, 0.5, 2.0, "script_flushes"),
    "flush": Fault(flush, 2.0, 3.0, "flushes"),
    "freeze": Fault(freeze, 0.5, 2.0, "freezes"),
    "disconnect": Fault(disconnect, 0.3, 1.0, "disconnects"),
    "reshard": Fault(reshard, 1.0, 3.0, "reshardings"),
    "broker": FAULTS["broker"],
}


def known(*, cluster: bool) -> dict[str, Fault]:
    """The faults by their names."""
    return CLUSTER_FAULTS if cluster else FAULTS
