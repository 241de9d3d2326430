"""What replaying the hot keys spares the origin when the cache's server has crashed and come back empty.

    python -m benchmarks.replay [--reads 100000] [--seed 1] [--json]

Twelve readers, a worker and a beat share a cache whose memory holds a few thousand of a million keys, which are read as
zipf has it. The server is killed and comes back empty; then reads go on. That happens twice, with the same reads after
it: once the worker replays what was hot, once there is no worker and plain misses have to do. Counted are the keys that
the origin is asked for, by readers and worker together, until what has been loaded answers 90 % of what was answered
before. The share that is answered is not measured but known: it is the weight of the keys that are stored.
"""

import argparse
import itertools
import json
import os
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass

from benchmarks import replay_loaders
from stoker.cache import Cache, keys
from stoker.config import Settings, open_cache
from stoker.tasks import configure, hooks, runtime
from stoker.worker.embedded import start_server
from stoker.worker.processes import Child, Processes
from stoker.worker.verify.server import Server

KEYS = 1_000_000
EXPONENT = 1.0
READERS = 12
CACHE_BYTES = 5 * 2**20
PACE = 0.003
"""Seconds between two reads after the crash: the origin would stand no more."""
BACK = 0.9
"""Of the old hit rate."""
WITHIN_S = 60.0
_COMMAND = "from stoker.worker.cli import main; main()"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one crash.

    Attributes:
        hit_rate: Before it.
        loads: Keys that the origin was asked for until 90 % of that was reached.
        reads: That were made meanwhile.
        seconds: That took.
    """

    hit_rate: float
    loads: int
    reads: int
    seconds: float


class Workload:
    """Reads of keys by their rank, and what share of them a set of keys answers."""

    def __init__(self, seed: int) -> None:
        weights: list[float] = [1 / rank**EXPONENT for rank in range(1, KEYS + 1)]
        total = sum(weights)
        self._share = [weight / total for weight in weights]
        self._cumulated = list(itertools.accumulate(weights))
        self.begin(seed)

    def begin(self, seed: int) -> None:
        """The reads that follow are those of this seed."""
        self._random = random.Random(seed)

    def some(self, count: int) -> list[str]:
        """The next reads."""
        ranks = self._random.choices(range(KEYS), cum_weights=self._cumulated, k=count)
        return [f"item:{rank}" for rank in ranks]

    def share(self, key: str) -> float:
        """Of all reads those of this key."""
        return self._share[int(key.partition(":")[2])]


class Stage:
    """Servers, a worker and a beat, and readers in this process."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._server = Server(processes, processes.directory / "cache", ())
        self._limit()
        broker = start_server(processes, "broker").url
        ours = {
            "STOKER_CACHE_URL": self._server.url,
            "STOKER_BROKER_URL": broker,
            "STOKER_LOADERS": "benchmarks.replay_loaders",
            "STOKER_JOB__BATCH": "50",
            "STOKER_BEAT__HOT_EVERY": "0.5",
            "STOKER_BEAT__WATCH_EVERY": "0.5",
            "STOKER_HOT__SNAPSHOT_EVERY": "1",
            "STOKER_TEST_ORIGIN": broker.removesuffix("0") + "1",
        }
        kept = {name: value for name, value in os.environ.items() if not name.startswith("STOKER_")}
        os.environ.clear()
        os.environ.update(kept | ours)
        replay_loaders.origin.cache_clear()
        self.origin = replay_loaders.origin(os.getpid())
        self.settings = Settings()
        configure(self.settings)
        self._worker = self._start("worker", " ready.", "--concurrency", "2")
        self._beat = self._start("beat", "beat: Starting")

    def _limit(self) -> None:
        self._server.admin.config_set("maxmemory-policy", "volatile-lru")
        self._server.admin.config_set("maxmemory", CACHE_BYTES)

    def _start(self, name: str, ready: str, *arguments: str) -> Child:
        child = self._processes.start(name, [sys.executable, "-c", _COMMAND, name, *arguments])
        self._processes.wait_until(lambda: ready in child.log.read_text(errors="replace"), child, 30)
        return child

    @contextmanager
    def readers(self) -> Iterator[Iterator[Cache]]:
        """Caches as so many apps have them, in turns."""
        with ExitStack() as stack:
            yield itertools.cycle(
                [stack.enter_context(open_cache(self.settings, hooks)) for _ in range(READERS)]
            )

    def stored(self) -> list[str]:
        """The keys that are stored."""
        names = self._server.admin.scan_iter(f"{{{self.settings.namespace}:0}}:e:*", count=5000)
        return [name.partition(":e::")[2] for name in names]

    def wait_until_learned(self) -> None:
        """Until the worker has collected all reports, and taken a snapshot after that."""
        samples = keys.samples(self.settings.namespace).decode()
        deadline = time.monotonic() + WITHIN_S
        while self._server.admin.exists(samples):
            assert time.monotonic() < deadline, "the samples were not collected"
            time.sleep(0.1)
        time.sleep(2 * self.settings.hot.snapshot_every)

    def end_workers(self) -> None:
        """From now on there are readers alone."""
        self._processes.stop([self._worker, self._beat], 0)

    def crash(self) -> None:
        """The server is killed, and comes back with nothing."""
        self._server.restart()
        self._limit()
        self.origin.delete(replay_loaders.LOADS)


def measure(seed: int, reads: int) -> dict[str, Outcome]:
    """Read, then crash and read on until the old hit rate is nearly back: with a replay, and without."""
    workload = Workload(seed)
    with Processes() as processes:
        stage = Stage(processes)
        with stage.readers() as readers:
            for key in workload.some(reads):
                next(readers).get_or_load(key)
        stage.wait_until_learned()
        hit_rate = sum(map(workload.share, stage.stored()))
        stage.crash()
        workload.begin(seed + 1)
        replayed = _recover(stage, workload, hit_rate)
        stage.end_workers()
        stage.crash()
        workload.begin(seed + 1)
        plain = _recover(stage, workload, hit_rate)
        runtime.current().close()
    return {"replayed": replayed, "plain": plain}


def _recover(stage: Stage, workload: Workload, hit_rate: float) -> Outcome:
    began = time.monotonic()
    loaded: set[str] = set()
    share, seen, count = 0.0, 0, 0
    with stage.readers() as readers:
        while time.monotonic() - began < WITHIN_S:
            for key in workload.some(20):
                next(readers).get_or_load(key)
                count += 1
                time.sleep(PACE)
            for key in map(str, stage.origin.lrange(replay_loaders.LOADS, seen, -1)):
                seen += 1
                if key not in loaded:
                    loaded.add(key)
                    share += workload.share(key)
                if share >= BACK * hit_rate:
                    return Outcome(hit_rate, seen, count, time.monotonic() - began)
    raise TimeoutError(f"the hit rate was {share:.1%} after {WITHIN_S:g} s, and {hit_rate:.1%} before")


def told(found: Mapping[str, Outcome], seed: int) -> str:
    """The figures, in words."""
    lines = [
        f"{name:8} hit rate {one.hit_rate:.1%} before; {BACK:.0%} of it again after {one.loads:,} loads, "
        f"{one.reads:,} reads, {one.seconds:.1f} s"
        for name, one in found.items()
    ]
    ratio = found["replayed"].loads / found["plain"].loads
    return "\n".join([*lines, f"loads with replay to loads without: {ratio:.2f} (seed {seed})"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.replay", description=__doc__)
    parser.add_argument("--reads", type=int, default=100_000, help="before the crash")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    found = measure(options.seed, options.reads)
    as_json = json.dumps({"seed": options.seed, **{name: asdict(one) for name, one in found.items()}})
    sys.stdout.write((as_json if options.json else told(found, options.seed)) + "\n")


if __name__ == "__main__":
    main()
