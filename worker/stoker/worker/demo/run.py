"""What `stoker demo` does, in order: start the stack, fill the database, warm, let producer and readers run, sum up."""

import json
import os
import sys
import time
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from stoker.config import Settings
from stoker.tasks import TaskError, configure, runtime, send
from stoker.worker.demo import airports, loaders, summary
from stoker.worker.demo.airports import Airport
from stoker.worker.demo.board import Board, Count
from stoker.worker.demo.producer import Outcome
from stoker.worker.demo.roles import Role
from stoker.worker.demo.summary import Result
from stoker.worker.embedded import start_server
from stoker.worker.processes import Child, ChildEnded, NotReady, Processes
from stoker.worker.terminal import counted
from stoker.worker.up import GRACE_S, Stack, start_stack, stop_on_signals

READERS = {  # name -> (threads, longest pause of its loader in seconds)
    "reader": (6, 0.0),
    "slow-reader-1": (8, 0.3),
    "slow-reader-2": (8, 0.3),
}
PRODUCER = "producer"
ALL_THREADS = 1 + sum(threads for threads, _ in READERS.values())
JOB_WITHIN_S = 60.0
BEGIN_WITHIN_S = 30.0
END_WITHIN_S = 40.0
"""Longest wait for a child to end: more than the producer waits for a job."""
_LOOK_EVERY_S = 0.1
_MOST_JOBS = 10_000
_MOST_LINES = 10


@dataclass(frozen=True, slots=True)
class Options:
    """What the user may choose.

    Attributes:
        seconds: How long producer and readers run.
        seed: Of what is read and changed; times still differ from run to run.
        broken: The guard to remove, see `breaking`; empty for none.
        keep: Leave the stack up after the summary, until Ctrl-C.
    """

    seconds: float = 20.0
    seed: int = 1
    broken: str = ""
    keep: bool = False


def run(options: Options) -> int:
    """Run the demo; return the exit code of the command: 0 if nothing was stale and every job succeeded."""
    stop_on_signals()
    out = Console(soft_wrap=True, highlight=False)
    try:
        with Processes(GRACE_S) as processes:
            return Demo(options, out, processes).run()
    except KeyboardInterrupt:
        out.print("Stopped.")
        return 130
    except (ChildEnded, NotReady, TaskError, TimeoutError) as error:
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"stoker demo: {error}", markup=False)
        return 1


class Demo:
    """One run. The methods are its steps, in order."""

    def __init__(self, options: Options, out: Console, processes: Processes) -> None:
        self._options = options
        self._out = out
        self._processes = processes
        self._board_path = processes.directory / "board"
        self._known: list[Airport] = []

    def run(self) -> int:
        stack = self._start()
        warm, warm_s = self._warm()
        with Board(self._board_path, len(self._known), ALL_THREADS) as board:
            children = self._start_children(board)
            self._watch(board)
            self._processes.join(children, END_WITHIN_S)
            told = [line for child in children for line in child.tail().splitlines()]
            counts = summary.totals(board)
        outcome = Outcome(**json.loads(Outcome.file(self._board_path).read_text()))
        send.sweep().wait(timeout=JOB_WITHIN_S)
        jobs = runtime.current().jobs.recent(_MOST_JOBS)
        code = self._judge(Result(len(self._known), warm, warm_s, jobs, outcome, told=told, **counts))
        if self._options.keep:
            self._stay(stack)
        return code

    def _start(self) -> Stack:
        """Fill the database and start the stack: servers of its own and no settings of the user's."""
        database = self._processes.directory / "airports.sqlite"
        airports.create(database)
        with closing(airports.connect(database)) as db:
            self._known = airports.every(db)
        for name in [name for name in os.environ if name.startswith("STOKER_")]:
            del os.environ[name]
        cache, broker = (start_server(self._processes, role).url for role in ("cache", "broker"))
        os.environ |= {  # all that a .env file here might say otherwise
            loaders.DATABASE: str(database),
            "STOKER_LOADERS": loaders.__name__,
            "STOKER_NAMESPACE": "demo",
            "STOKER_CACHE_URL": cache,
            "STOKER_BROKER_URL": broker,
            "STOKER_STATE_URL": broker,
        }
        settings = Settings()
        configure(settings)
        stack = start_stack(self._processes, settings)
        countries = len({airport.country for airport in self._known})
        self._out.print(
            f"{len(self._known):,} airports in SQLite; their {countries} countries are the tenants."
        )
        self._out.print(
            f"Flower: {stack.flower_url}  user {stack.flower_user}, password {stack.flower_password}"
        )
        return stack

    def _warm(self) -> tuple[dict[str, object], float]:
        """Load every airport in a job; return its report and how many seconds it took."""
        by_country: dict[str, list[str]] = defaultdict(list)
        for airport in self._known:
            by_country[airport.country].append(airport.key)
        asked = time.monotonic()
        job = send.warm(keys=by_country)
        with self._progress("warming", len(self._known)) as progress:
            while not (status := job.status()).final:
                self._processes.check()
                if time.monotonic() - asked > JOB_WITHIN_S:
                    break
                progress.update(
                    progress.task_ids[0], completed=status.done, text=f"{status.rate:,.0f} keys/s"
                )
                time.sleep(_LOOK_EVERY_S)
            progress.update(progress.task_ids[0], completed=status.done)
        return job.wait(timeout=0).report, time.monotonic() - asked

    def _start_children(self, board: Board) -> list[Child]:
        """Start the producer and the readers; return when all are at work."""
        children = [self._start_child(PRODUCER, 0, 1, 0.0)]
        first = 1
        for name, (threads, slowed_by_s) in READERS.items():
            children.append(self._start_child(name, first, threads, slowed_by_s))
            first += threads
        self._processes.wait_until(
            lambda: board.total(Count.BEGUN) == len(children), children[-1], BEGIN_WITHIN_S
        )
        return children

    def _start_child(self, name: str, first: int, threads: int, slowed_by_s: float) -> Child:
        options = self._options
        role = Role(
            str(self._board_path), options.seed, ALL_THREADS, first, threads, slowed_by_s, options.broken
        )
        module = "producer" if name == PRODUCER else "reader"
        command = [sys.executable, "-m", f"{__package__}.{module}", role.argument()]
        return self._processes.start(name, command, os.environ)

    def _watch(self, board: Board) -> None:
        """Let the children run, and show how they do."""
        begun = time.monotonic()
        with self._progress("changing and reading", self._options.seconds) as progress:
            while (passed := time.monotonic() - begun) < self._options.seconds:
                self._processes.check()
                progress.update(progress.task_ids[0], completed=passed, text=_counts(board))
                time.sleep(_LOOK_EVERY_S)
            board.stop()
            progress.update(progress.task_ids[0], completed=self._options.seconds, text=_counts(board))

    def _judge(self, result: Result) -> int:
        for name, value in summary.rows(result):
            self._out.print(f"{name:<24}{value}", markup=False)
        wrong = [*summary.problems(result)]
        if wrong:
            for line in [*wrong, *dict.fromkeys(result.told)][:_MOST_LINES]:
                self._out.print(f"  {line}", markup=False, style="red")
        verdict = "FAILED" if wrong else "OK: no stale read, and every job succeeded"
        self._out.print(verdict, style="bold red" if wrong else "bold green")
        return 1 if wrong else 0

    def _stay(self, stack: Stack) -> None:
        self._out.print(f"Still up: {stack.flower_url}. Ctrl-C stops everything.")
        try:
            while True:
                self._processes.check()
                time.sleep(_LOOK_EVERY_S)
        except KeyboardInterrupt:
            return

    def _progress(self, what: str, total: float) -> Progress:
        """A bar with a text behind it; not on what is no terminal."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[text]}"),
        )
        progress = Progress(*columns, console=self._out, disable=not self._out.is_terminal)
        progress.add_task(what, total=total, text="")
        return progress


def _counts(board: Board) -> str:
    counts = {name: board.total(count) for name, count in (("reads", Count.READS), ("stale", Count.STALE))}
    invalidations = board.total(Count.INVALIDATIONS)
    reads, made = counted(counts["reads"], "read"), counted(invalidations, "invalidation")
    return f"{reads}, {counts['stale']:,} stale, {made}"
