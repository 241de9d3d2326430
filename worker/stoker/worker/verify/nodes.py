"""A cluster that a run may harm: three primaries with a replica each; what died comes back as a replica."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from random import Random
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import RedisClusterException
from redis.retry import Retry

from stoker.worker.embedded import Server, serves
from stoker.worker.embedded_cluster import start_cluster
from stoker.worker.processes import Child, NotReady, Processes

NODE_TIMEOUT_S = 1.0
_WITHIN_S = 30.0
_ANSWERS_WITHIN_S = 10.0
TROUBLE = redis.RedisError, RedisClusterException, OSError
"""What a cluster says while one of its nodes is gone."""


class Nodes:
    """Its processes by their ports.

    Attributes:
        busy: Whether a node is gone, or does not follow yet: no other may go meanwhile.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        formed = start_cluster(processes, replicas=True, node_timeout_s=NODE_TIMEOUT_S)
        self._children: dict[int, Child] = {
            server.port: server.child for server in (*formed.primaries, *formed.replicas)
        }
        self._gone: set[int] = set()
        self.busy = False

    @property
    def up(self) -> list[int]:
        """Ports of those that run."""
        return [port for port in self._children if port not in self._gone]

    @property
    def url(self) -> str:
        """Of one that runs; the others are found through it."""
        return Server(self._children[self.up[0]], self.up[0]).url

    @contextmanager
    def admin(self, port: int) -> Iterator[Any]:
        """A plain client of one node."""
        with redis.Redis(
            host="127.0.0.1",
            port=port,
            decode_responses=True,
            socket_timeout=_ANSWERS_WITHIN_S,
            retry=Retry(NoBackoff(), 0),
        ) as client:
            yield client

    def seen_from(self, port: int) -> dict[int, dict[str, Any]]:
        """The cluster as a node sees it: flags, node_id and slots of each, by port."""
        with self.admin(port) as client:
            nodes = client.cluster("nodes")
        return {int(address.rpartition(":")[2]): facts for address, facts in nodes.items()}

    def primaries(self) -> list[int]:
        """Those that have slots."""
        return [
            port for port, facts in self.seen_from(self.up[0]).items() if facts["slots"] and port in self.up
        ]

    def owner(self, key: str) -> int | None:
        """The primary that has the key's slot, if it runs."""
        slot = key_slot(key.encode())
        view = self.seen_from(self.up[0])
        return next((port for port in self.up if _has(view[port]["slots"], slot)), None)

    def complete(self) -> bool:
        """Whether every node runs and agrees on who has which slots, and every replica has all that its primary has."""
        if self._gone:
            return False
        views = [self.seen_from(port) for port in self._children]
        owners = [{port: facts["slots"] for port, facts in view.items() if facts["slots"]} for view in views]
        if any("fail" in facts["flags"] for view in views for facts in view.values()):
            return False
        return all(one == owners[0] for one in owners) and all(
            self._follows(port) for port in self._children if port not in owners[0]
        )

    def _follows(self, port: int) -> bool:
        with self.admin(port) as client:
            return bool(client.info("replication").get("master_link_status") == "up")

    def settle(self) -> None:
        """Wait until it is complete.

        Raises:
            NotReady: It was not in time.
        """
        deadline = time.monotonic() + _WITHIN_S
        while not self.mended():
            if time.monotonic() > deadline:
                raise NotReady("the cluster", _WITHIN_S, str(self))
            time.sleep(0.1)

    def mended(self) -> bool:
        """Do what is left to be done after a failover. Returns whether it is complete.

        Raises:
            ChildEnded: A node has ended by itself.
        """
        self._processes.check()
        with suppress(*TROUBLE):  # a node that is busy: the next look will tell
            self.mend()
            return self.complete()
        return False

    def __str__(self) -> str:
        """Who has which slots, as each sees it."""
        seen = ((port, self.seen_from(port)) for port in self.up)
        return "\n".join(
            f"{port}: {[(other, facts['flags'], facts['slots']) for other, facts in view.items()]}"
            for port, view in seen
        )

    # -- what goes wrong ---------------------------------------------------------------------------------------

    def fall_behind(self, port: int) -> None:
        """What happens at a primary from now on its replica does not learn."""
        with self.admin(port) as client:
            client.execute_command("ACL SETUSER default -sync -psync -replconf")
            client.client_kill_filter(_type="replica")

    def kill(self, port: int) -> None:
        """SIGKILL a node."""
        self._processes.stop([self._children[port]], 0)
        self._gone.add(port)

    def replaced(self, port: int) -> bool:
        """Whether all others agree that a node which is gone has no slots any more."""
        return all(not self.seen_from(other)[port]["slots"] for other in self.up)

    def start_again(self, port: int) -> None:
        """Start a node that was killed, with nothing but what it knew of the cluster."""
        child = self._children[port] = self._processes.again(self._children[port])
        self._processes.wait_until(lambda: serves(port, child.pid), child, _WITHIN_S)
        self._gone.discard(port)

    def mend(self) -> None:
        """Undo what is left of a failover: everybody runs, replicas may follow, and a primary without slots does."""
        for port in [port for port in self._gone if self.replaced(port)]:
            self.start_again(port)
        view = self.seen_from(self.up[0])
        led = {facts["master_id"] for facts in view.values()}
        alone = [
            facts["node_id"] for facts in view.values() if facts["slots"] and facts["node_id"] not in led
        ]
        for port in self.up:
            with self.admin(port) as client:
                client.execute_command("ACL SETUSER default +sync +psync +replconf")
                if alone and not view[port]["slots"] and "master" in view[port]["flags"]:
                    client.execute_command("CLUSTER REPLICATE", alone.pop())

    def move(self, key: str, chance: Random) -> bool:
        """Begin to move the key's slot to another primary at once. Returns whether it was begun.

        One at a time: Valkey 9.1.2 dies of an assertion if a node exports a slot while its import of another fails.
        """
        slot, owner = key_slot(key.encode()), self.owner(key)
        others = [port for port in self.primaries() if port != owner]
        if owner is None or not others or self.moving():
            return False
        target = self.seen_from(owner)[chance.choice(others)]["node_id"]
        with self.admin(owner) as client:
            client.execute_command("CLUSTER MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", target)
        return True

    def moving(self) -> bool:
        """Whether a slot is on its way."""
        for port in self.up:
            with self.admin(port) as client:
                jobs = client.execute_command("CLUSTER GETSLOTMIGRATIONS")
            if any(job["state"] not in ("success", "failed", "cancelled") for job in jobs):
                return True
        return False

    def freeze(self, port: int, seconds: float) -> None:
        """A node stands still for so long, with all connections open."""
        pid = self._children[port].pid
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            os.kill(pid, signal.SIGCONT)


def _has(ranges: list[list[str]], slot: int) -> bool:
    return any(int(found[0]) <= slot <= int(found[-1]) for found in ranges if found[0].isdigit())
