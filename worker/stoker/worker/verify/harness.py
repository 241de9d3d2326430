"""Runs the crew against one server, lets things go wrong, and adds up what came of it.

The process that runs this has no threads of its own, so that its crew can be forked. If it is killed, the crew ends by
itself, and the guard of `Processes` ends the rest.
"""

import heapq
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import chdir, suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

import redis

from stoker.cache import plain_client
from stoker.worker.processes import Processes
from stoker.worker.verify import readers
from stoker.worker.verify.cluster_faults import known
from stoker.worker.verify.crew import READERS, be, crew
from stoker.worker.verify.faults import NAMESPACE, control_keys
from stoker.worker.verify.nodes import Nodes
from stoker.worker.verify.plan import Plan
from stoker.worker.verify.post import Post
from stoker.worker.verify.server import Server
from stoker.worker.verify.workers import WORKERS, Workers
from stoker.worker.verify.world import World

WIND_UP_S = 5.0
"""How long the crew may take to stop by itself."""


@dataclass
class Outcome:
    """What came of a run.

    Attributes:
        totals: Counts of the crew.
        struck: How often each fault struck.
        notes: Lines about what should not be.
        unstopped: Processes that hung and had to be killed.
        unexpired: Keys left in the server that never expire and are no control state.
    """

    plan: Plan
    totals: dict[str, int]
    struck: dict[str, int]
    notes: list[str]
    seconds: float
    unstopped: int
    unexpired: list[str]

    @property
    def figures(self) -> dict[str, int]:
        """All counts by the names that they are printed with."""
        faults = known(cluster=self.plan.cluster)
        return self.totals | {faults[name].plural: n for name, n in self.struck.items()}

    def __str__(self) -> str:
        shown = " ".join(f"{name}={n}" for name, n in self.figures.items())
        faults = ",".join(self.plan.faults) or "none"
        shards = (
            f"{self.plan.shards}{' near' if self.plan.near else ''}{' cluster' if self.plan.cluster else ''}"
        )
        without = f" without={','.join(self.plan.broken)}" if self.plan.broken else ""
        head = f"seed={self.plan.seed} seconds={self.seconds:.1f} shards={shards} faults={faults}{without}"
        rate = f"hit_rate={self.totals['hits'] / max(self.totals['reads'], 1):.0%}"
        return f"{head} {shown} {rate} unstopped={self.unstopped} unexpired={len(self.unexpired)}"


class Run:
    """The stage of a run: server, crew, workers and clock."""

    def __init__(self, plan: Plan, processes: Processes) -> None:
        self.plan = plan
        self.folder = processes.directory
        self.chance = random.Random(plan.seed)
        self.address = self.folder / "address"
        self.pids: list[int] = []
        self.servers: list[Server] = []
        self.workers: Workers | None = None
        self._crew = crew(plan)
        self.readers = [_user(slot) for slot, role in enumerate(self._crew) if role in READERS]
        self._processes = processes
        self._faults = known(cluster=plan.cluster)
        self._struck: dict[str, int] = {}
        self._world = World(self.folder, create=True)
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._order = count()
        self._namespace = f"check-{os.getpid()}" if plan.url else NAMESPACE

    def open(self) -> None:
        """Start the servers and the workers."""
        most = len(self._crew) + 1 + WORKERS  # the last look has a slot too
        if self.plan.url:
            with self._client() as client:
                client.ping()
        elif self.plan.cluster:
            self.nodes = Nodes(self._processes)
        else:
            users = [_user(slot) for slot in range(most)]
            self.server = Server(self._processes, self.folder / "server", users, self.plan.binary)
            self.servers.append(self.server)
            self.server.take(self.address)
        if self.plan.jobs:
            slots = range(most - WORKERS, most)
            self.workers = Workers(
                self._processes,
                self.folder,
                self._namespace,
                self.plan.told_shards,
                self.plan.cluster,
                {slot: self._url(slot) for slot in slots},
                self.plan.broken,
            )
            self.workers.start(self.plan.seed)

    def after(self, seconds: float, then: Callable[[], object]) -> None:
        """Call `then` from the loop of `play`, unless the run ends before; see `do_what_is_due`."""
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._order), then))

    def do_what_is_due(self) -> None:
        """Call what was given to `after`, in the order in which it was due."""
        while self._due and self._due[0][0] <= time.monotonic():
            heapq.heappop(self._due)[2]()

    def replace(self, slot: int) -> None:
        """Start the role of a slot in a new process; the one before has ended."""
        self._processes.let_go(self.pids[slot])
        self._start(slot)

    def happened(self, fault: str) -> None:
        """Count it."""
        self._struck[fault] = self._struck.get(fault, 0) + 1

    def play(self) -> Outcome:
        """Do it all, but `close`."""
        began = time.monotonic()
        for slot in range(len(self._crew)):
            self.pids.append(0)
            self._start(slot)
        for name in self.plan.faults:
            self.strike_again(name, 0.0, self._faults[name].least)
        while time.monotonic() < began + self.plan.seconds:
            if self.plan.until_stale and self._world.totals()["stale"]:
                break
            self.do_what_is_due()
            time.sleep(0.01)
        seconds = time.monotonic() - began
        unstopped = self._wind_up()
        unexpired = self._look_back()
        world = self._world
        return Outcome(self.plan, world.totals(), self._struck, world.notes(), seconds, unstopped, unexpired)

    def close(self) -> None:
        """End every member of the crew that has not ended, and leave nothing on a server that is not ours.

        `processes` end with their block.
        """
        for pid in filter(None, self.pids):
            with suppress(ProcessLookupError, ChildProcessError):  # ended, and not yet replaced
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            self._processes.let_go(pid)
        if self.plan.url:
            with self._client() as client:
                for name in list(client.scan_iter(f"{{{self._namespace}*", count=1000)):
                    client.unlink(name)

    def strike_again(self, name: str, least: float, most: float) -> None:
        """Have a fault strike in so many seconds, from and to, and again and again after that."""
        fault = self._faults[name]

        def strike() -> None:
            fault.step(self)
            self.strike_again(name, fault.least, fault.most)

        self.after(self.chance.uniform(least, most), strike)

    def _start(self, slot: int) -> None:
        post = self._post(slot)
        # Ctrl-C waits meanwhile: in a hook of the fork it would be lost, and after it the new process.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
        try:
            self.pids[slot] = pid = os.fork()
            if pid:
                self._processes.adopt(pid)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if pid == 0:
            self._processes.forked()
            be(self._crew[slot], post, self.plan.broken)

    def _post(self, slot: int) -> Post:
        stranger = self.plan.strangers and slot % 2 == 1
        return Post(
            slot,
            self._world,
            self._url(slot),
            self._namespace,
            self.chance.randrange(2**32),
            self.plan.shards + 1 if stranger else self.plan.told_shards,
            {} if self.workers is None else self.workers.environment,
            self.plan.near,
            self.plan.cluster,
        )

    def _url(self, slot: int) -> str:
        if self.plan.cluster:
            return self.plan.url or self.nodes.url
        return self.plan.url or f"unix://{_user(slot)}@{self.address}"

    def _client(self) -> Any:
        url = self._url(len(self._crew))
        return redis.RedisCluster.from_url(url) if self.plan.cluster else plain_client.client(url)

    def _wind_up(self) -> int:
        """Stop the crew, kill the workers. Returns how many of the crew did not stop by themselves."""
        self._world.stop()
        for pid in self.pids:
            os.kill(pid, signal.SIGCONT)
        deadline = time.monotonic() + WIND_UP_S
        while self.pids and time.monotonic() < deadline:
            ended = {pid for pid in self.pids if os.waitpid(pid, os.WNOHANG) != (0, 0)}
            for pid in ended:
                self._processes.let_go(pid)
            self.pids = [pid for pid in self.pids if pid not in ended]
            time.sleep(0.01)
        if self.workers is not None:
            self.workers.end()
        return len(self.pids)

    def _look_back(self) -> list[str]:
        """Read everything once more, in a cache that knows nothing yet. Returns keys that will stay for ever."""
        if self.plan.cluster and not self.plan.url:
            self.nodes.settle()
        elif not self.plan.url:
            self.server.admin.config_set("maxmemory", 0)
        post = self._post(len(self._crew))
        pid = os.fork()
        if pid == 0:
            self._processes.forked()
            be(readers.look_back, post, ())
        os.waitpid(pid, 0)
        with self._client() as client:
            names = [name.decode() for name in client.scan_iter(f"{{{self._namespace}*", count=1000)]
            kept = control_keys(self._namespace)
            return [name for name in names if name not in kept and client.ttl(name) == -1]


def _user(slot: int) -> str:
    return f"role{slot}"


def play(plan: Plan) -> Outcome:
    """Play a run and leave nothing behind, but this process without settings of Stoker's in its environment.

    Raises:
        ChildEnded: A server or worker has ended by itself; NotReady: one has not begun.
        RedisError: The server at the plan's URL does not answer.
    """
    for name in [name for name in os.environ if name.startswith("STOKER_")]:
        del os.environ[name]
    with Processes() as processes, chdir(processes.directory):  # where no .env is
        run = Run(plan, processes)
        try:
            run.open()
            return run.play()
        except redis.RedisError:
            processes.check()  # a server that has ended says why
            raise
        finally:
            run.close()
