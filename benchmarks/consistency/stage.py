"""Runs the crew with one contender against one server, lets things go wrong, and adds up what came of it.

The server, the truth and the faults are those of `stoker verify`. The process that runs this has no threads, so that
its crew can be forked.
"""

import asyncio
import heapq
import logging
import os
import random
import signal
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import NoReturn

from benchmarks.consistency.history import CREW, Desk, Work
from benchmarks.consistency.peer import Peer, Seat
from benchmarks.consistency.peers import CONTENDERS
from stoker.worker.processes import Processes
from stoker.worker.verify.faults import FAULTS
from stoker.worker.verify.plan import Plan
from stoker.worker.verify.server import Server
from stoker.worker.verify.workers import Workers
from stoker.worker.verify.world import World

MIXES: dict[str, tuple[str, ...]] = {
    "quiet": (),
    "kills": ("kill", "pause"),
    "restart": ("restart",),
    "failover": ("failover",),
    "flush": ("flush",),
}
"""Named after the faults of `stoker verify` that strike in them."""
WIND_UP_S = 5.0
SHOWN = ("reads", "hits", "stale", "wrong", "loads", "errors", "acks", "unacked")
MOST_NOTES = 20


@dataclass
class Result:
    """What came of a contender in a mix. `hung` is how many of the crew did not stop by themselves."""

    contender: str
    mix: str
    counts: dict[str, int]
    struck: dict[str, int]
    hung: int
    server: str
    notes: list[str]


class Stage:
    """The stage of one run, which the faults can reach."""

    def __init__(self, contender: str, plan: Plan, ttl: int, processes: Processes) -> None:
        self.plan = plan
        self.chance = random.Random(plan.seed)
        self.folder = processes.directory
        self.address = self.folder / "address"
        self.pids: list[int] = []
        self.readers: list[str] = []
        self.workers: Workers | None = None
        self.struck: dict[str, int] = {}
        self.world = World(self.folder, create=True)
        self.server = Server(processes, self.folder / "server", ())
        self.servers = [self.server]
        self.server.take(self.address)
        self._contender = CONTENDERS[contender]
        self._adapter = self._contender.load()
        self._ttl = ttl
        self._starts = [0] * len(CREW)
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._order = count()

    def after(self, seconds: float, then: Callable[[], object]) -> None:
        """Call `then` from the loop of `play`, unless the run ends before."""
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._order), then))

    def replace(self, slot: int) -> None:
        """Start the role of a slot in a new process."""
        self.pids[slot] = self._start(slot)

    def happened(self, fault: str) -> None:
        """Count it."""
        self.struck[fault] = self.struck.get(fault, 0) + 1

    def play(self) -> int:
        """Let all work for the plan's seconds. Returns how many had to be killed."""
        self.pids = [self._start(slot) for slot in range(len(CREW))]
        for name in self.plan.faults:
            self._again(name)
        end = time.monotonic() + self.plan.seconds
        while time.monotonic() < end:
            while self._due and self._due[0][0] <= time.monotonic():
                heapq.heappop(self._due)[2]()
            time.sleep(0.01)
        return self._wind_up()

    def close(self) -> None:
        """End every member of the crew that has not ended."""
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self.pids = []

    def _again(self, name: str) -> None:
        fault = FAULTS[name]

        def strike() -> None:
            fault.step(self)
            self._again(name)

        self.after(self.chance.uniform(fault.least, fault.most), strike)

    def _wind_up(self) -> int:
        self.world.stop()
        for pid in self.pids:
            os.kill(pid, signal.SIGCONT)
        deadline = time.monotonic() + WIND_UP_S
        while self.pids and time.monotonic() < deadline:
            self.pids = [pid for pid in self.pids if os.waitpid(pid, os.WNOHANG) == (0, 0)]
            time.sleep(0.01)
        return len(self.pids)

    def _start(self, slot: int) -> int:
        self._starts[slot] += 1
        seed = f"{self.plan.seed} {slot} {self._starts[slot]}"
        pid = os.fork()
        return pid or self._be(slot, seed)

    def _be(self, slot: int, seed: str) -> NoReturn:
        """Take up a role in this process, which is a fork, and end with it."""
        seat = Seat(self.world, slot)
        try:
            os.setpgid(0, 0)
            logging.getLogger().addHandler(logging.NullHandler())  # what a contender logs, its answers show
            work, times = CREW[slot]
            perform = _in_tasks if self._contender.awaited else _in_threads
            perform(work, times, seat, slot, seed, lambda: self._adapter(f"unix://{self.address}", self._ttl))
        except BaseException:
            self.world.note(traceback.format_exc().replace("\n", " / "))
            seat.count({"errors": 1})
        finally:
            os._exit(0)


def _in_tasks(work: Work, times: int, seat: Seat, slot: int, seed: str, make: Callable[[], Peer]) -> None:
    async def all_of_them() -> None:
        peer = make()
        await asyncio.gather(
            *(_keep_at(work, Desk.at(seat, slot, peer, f"{seed} {n}")) for n in range(times))
        )

    asyncio.run(all_of_them())


def _in_threads(work: Work, times: int, seat: Seat, slot: int, seed: str, make: Callable[[], Peer]) -> None:
    peer = make()
    desks = [Desk.at(seat, slot, peer, f"{seed} {n}") for n in range(times)]
    threads = [threading.Thread(target=lambda desk=desk: asyncio.run(_keep_at(work, desk))) for desk in desks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


async def _keep_at(work: Work, desk: Desk) -> None:
    while not desk.seat.world.stopped:
        await work(desk)


def play(contender: str, mix: str, seed: int, seconds: float, ttl: int) -> Result:
    """Play one run and leave nothing behind.

    Raises:
        ModuleNotFoundError: The contender's library is not installed.
        ChildEnded: The server has ended by itself; NotReady: it has not begun.
    """
    with Processes() as processes:
        stage = Stage(contender, Plan(seed=seed, seconds=seconds, faults=MIXES[mix]), ttl, processes)
        try:
            hung = stage.play()
        finally:
            stage.close()
        totals = stage.world.totals()
        return Result(
            contender,
            mix,
            {name: totals[name] for name in SHOWN},
            stage.struck,
            hung,
            _version(stage.server),
            stage.world.notes()[:MOST_NOTES],
        )


def _version(server: Server) -> str:
    info = server.admin.info("server")
    name = info.get("server_name", "redis")
    return f"{name} {info.get(f'{name}_version', '?')}"
