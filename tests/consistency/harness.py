"""Runs the crew against one server, lets things go wrong, and adds up what came of it.

The process that runs this has no threads of its own, so that its crew can be forked.
"""

import heapq
import logging
import os
import random
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import redis

from stoker.cache import PlacementMismatch
from tests.consistency import guards, roles
from tests.consistency.faults import FAULTS, NAMESPACE, Fault, control_keys
from tests.consistency.plan import Plan
from tests.consistency.server import Server
from tests.consistency.world import World

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

    def __str__(self) -> str:
        figures = " ".join(f"{name}={n}" for name, n in (self.totals | self.struck).items())
        without = f" without={','.join(self.plan.broken)}" if self.plan.broken else ""
        left = f"unstopped={self.unstopped} unexpired={len(self.unexpired)}"
        return f"seed={self.plan.seed} seconds={self.seconds:.1f}{without} {figures} {left}"


class Run:
    """The stage of a run: server, crew and clock."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.folder = folder
        self.chance = random.Random(plan.seed)
        self.address = folder / "address"
        self.readers = [
            _user(slot) for slot, role in enumerate(roles.CREW) if role in (roles.read, roles.crowd)
        ]
        self.pids: list[int] = []
        self.servers: list[Server] = []
        self._struck: dict[str, int] = {}
        self._world = World(folder, create=True)
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._order = count()
        self._namespace = f"check-{os.getpid()}" if plan.url else NAMESPACE

    def open(self) -> None:
        """Start the server."""
        if not self.plan.url:
            users = [_user(slot) for slot in range(len(roles.CREW) + 1)]
            self.server = Server(self.folder / "server", users, self.plan.binary)
            self.servers.append(self.server)
            self.server.take(self.address)

    def after(self, seconds: float, then: Callable[[], object]) -> None:
        """Call `then` from the loop of `play`, unless the run ends before."""
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._order), then))

    def replace(self, slot: int) -> None:
        """Start the role of a slot in a new process."""
        self.pids[slot] = self._start(slot)

    def play(self) -> Outcome:
        """Do it all, but `close`."""
        began = time.monotonic()
        for slot in range(len(roles.CREW)):
            self.pids.append(self._start(slot))
        for name in self.plan.faults:
            self._again(name, FAULTS[name])
        while time.monotonic() < began + self.plan.seconds:
            if self.plan.until_stale and self._world.totals()["stale"]:
                break
            while self._due and self._due[0][0] <= time.monotonic():
                heapq.heappop(self._due)[2]()
            time.sleep(0.01)
        seconds = time.monotonic() - began
        unstopped = self._wind_up()
        unexpired = self._look_back()
        world = self._world
        return Outcome(self.plan, world.totals(), self._struck, world.notes(), seconds, unstopped, unexpired)

    def close(self) -> None:
        """End every process that was started and has not ended."""
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        for server in self.servers:
            server.crash()

    def _again(self, name: str, fault: Fault) -> None:
        def strike() -> None:
            fault.step(self)
            self._struck[name] = self._struck.get(name, 0) + 1
            self._again(name, fault)

        self.after(self.chance.uniform(fault.least, fault.most), strike)

    def _start(self, slot: int) -> int:
        post = self._post(slot)
        pid = os.fork()
        if pid == 0:
            _be(post, self.plan.broken)
        return pid

    def _post(self, slot: int) -> roles.Post:
        url = self.plan.url or f"unix://{_user(slot)}@{self.address}"
        stranger = self.plan.strangers and slot % 2 == 1
        return roles.Post(
            slot, self._world, url, self._namespace, self.chance.randrange(2**32), self.plan.shards + stranger
        )

    def _wind_up(self) -> int:
        """Stop the crew. Returns how many did not stop by themselves."""
        self._world.stop()
        for pid in self.pids:
            os.kill(pid, signal.SIGCONT)
        deadline = time.monotonic() + WIND_UP_S
        while self.pids and time.monotonic() < deadline:
            self.pids = [pid for pid in self.pids if os.waitpid(pid, os.WNOHANG) == (0, 0)]
            time.sleep(0.01)
        return len(self.pids)

    def _look_back(self) -> list[str]:
        """Read everything once more, in a cache that knows nothing yet. Returns keys that will stay for ever."""
        if not self.plan.url:
            self.server.admin.config_set("maxmemory", 0)
        post = self._post(len(roles.CREW))
        roles.look_back(post)
        with redis.Redis.from_url(post.url, decode_responses=True) as client:
            names = list(client.scan_iter(f"{{{self._namespace}*", count=1000))
            kept = control_keys(self._namespace)
            unexpired = [name for name in names if name not in kept and client.ttl(name) == -1]
            if self.plan.url and names:
                client.delete(*names)
        return unexpired


class _Notes(logging.Handler):
    """What the product logs as an error is one."""

    def __init__(self, post: roles.Post) -> None:
        super().__init__(logging.ERROR)
        self._post = post

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and isinstance(record.exc_info[1], PlacementMismatch):
            return  # a refresh in the background was refused, as its readers are
        self._post.world.note(f"log: {self.format(record)}".replace("\n", " / "))
        self._post.world.count(self._post.slot, {"errors": 1})


def _be(post: roles.Post, broken: Sequence[str]) -> None:
    """Be a member of the crew, in a child process."""
    status = 1
    try:
        logging.getLogger("stoker").addHandler(_Notes(post))
        logging.getLogger("stoker").propagate = False
        guards.delay_answers(random.Random(post.seed))
        for name in broken:
            guards.GUARDS[name]()
        roles.begin(post, roles.CREW[post.slot])
        status = 0
    except BaseException:
        post.world.note(traceback.format_exc().replace("\n", " / "))
        post.world.count(post.slot, {"errors": 1})
    finally:
        os._exit(status)


def _user(slot: int) -> str:
    return f"role{slot}"


def play(plan: Plan) -> Outcome:
    """Play a run and leave nothing behind."""
    with tempfile.TemporaryDirectory(prefix="stoker-") as folder:
        run = Run(plan, Path(folder))
        try:
            run.open()
            return run.play()
        finally:
            run.close()
