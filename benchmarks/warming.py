"""How fast keys are warmed, with leases, stamps and a TTL each, against a pipeline of plain SETs.

    python -m benchmarks.warming [--quick]

The reference is what one writes by hand: redis-py, a pipeline of 1,000 SETs of the same keys and as many bytes, with
the TTL. `Cache.warm` loads them by a batch loader that costs nothing, in this process; a job does so in Celery workers,
from its sending to its end. The second table is for a loader of 50 ms a call, one call at a time in each worker.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import redis

from benchmarks import warming_origin
from benchmarks.harness import Contender, Settings, Table, interleaved, ratios, run
from benchmarks.warming_origin import KEYS, TTL_S, VALUE
from stoker.cache import Cache, CacheConfig
from stoker.cache.entry import HEADER_BYTES
from stoker.config import Settings as StokerSettings
from stoker.tasks import configure, send
from stoker.worker import commands
from stoker.worker.embedded import Server, start_server
from stoker.worker.processes import Processes

NAMESPACE = "warming"
CHUNK = 1000
REFERENCE = "redis-py, pipeline of SETs"
READY_WITHIN_S = 30.0
JOB_WITHIN_S = 300.0
Run = Callable[[], float]
"""Does the work and returns keys a second."""


@dataclass(frozen=True)
class Stage:
    """What contenders run on."""

    processes: Processes
    cache: Server
    broker: Server
    keys: int

    @contextmanager
    def workers(self, count: int, plan: str, **environment: str) -> Iterator[Run]:
        """So many workers of one process; the run is a job for this plan."""
        settings = StokerSettings(
            cache_url=self.cache.url, broker_url=self.broker.url, namespace=NAMESPACE, log_level="INFO"
        )
        ours = {
            "STOKER_CACHE_URL": self.cache.url,
            "STOKER_BROKER_URL": self.broker.url,
            "STOKER_NAMESPACE": NAMESPACE,
            "STOKER_LOADERS": warming_origin.__name__,
            "STOKER_JOB__HELPERS": str(count - 1),
            KEYS: str(self.keys),
            **environment,
        }
        started = [
            self.processes.start(
                f"worker-{plan}-{count}-{number}",
                commands.worker(settings, name=f"w{number}", queues=["warm"], concurrency=1),
                {**os.environ, **commands.WORKER_ENV, **ours},
            )
            for number in range(count)
        ]
        try:
            for child in started:
                self.processes.wait_until(
                    lambda child=child: any(" ready." in line for line in child.tail(50).splitlines()),  # type: ignore[misc]
                    child,
                    READY_WITHIN_S,
                )
            configure(settings)
            yield lambda: self._job(plan)
        finally:
            self.processes.stop(started, 5)

    def _job(self, plan: str) -> float:
        self.empty()
        began = perf_counter()
        report = send.warm_plan(plan).wait(timeout=JOB_WITHIN_S).report
        took = perf_counter() - began
        assert report["written"] == self.keys, report
        return self.keys / took

    def empty(self) -> None:
        """Begin with a cold cache."""
        with redis.Redis.from_url(self.cache.url) as client:
            client.flushall()


@contextmanager
def pipeline(stage: Stage) -> Iterator[Run]:
    with redis.Redis.from_url(stage.cache.url) as client:
        blob = b"x" * (HEADER_BYTES + len(VALUE) + 2)

        def write() -> float:
            stage.empty()
            began = perf_counter()
            for first in range(0, stage.keys, CHUNK):
                batch = client.pipeline(transaction=False)
                for number in range(first, min(first + CHUNK, stage.keys)):
                    batch.set(f"{{{NAMESPACE}:0}}:e::free:{number}", blob, ex=TTL_S)
                batch.execute()
            return stage.keys / (perf_counter() - began)

        yield write


@contextmanager
def in_process(stage: Stage) -> Iterator[Run]:
    config = CacheConfig(backend="redis", redis_url=stage.cache.url, namespace=NAMESPACE)
    with Cache(config) as cache:

        def warm() -> float:
            stage.empty()
            cache.ping()
            keys = [f"free:{number}" for number in range(stage.keys)]
            began = perf_counter()
            report = cache.warm(keys)
            took = perf_counter() - began
            assert report.written == stage.keys, report
            return stage.keys / took

        yield warm


CONTENDERS = (
    Contender(REFERENCE, pipeline, ("redis",)),
    Contender("Cache.warm", in_process, ("stoker",)),
    Contender("job, one worker", lambda stage: stage.workers(1, "free"), ("celery",)),
    Contender("job, two workers", lambda stage: stage.workers(2, "free"), ("celery",)),
)


def measure(settings: Settings) -> Iterator[Table]:
    with Processes() as processes, _server_apart(processes) as cache:
        broker = start_server(processes, "broker")
        yield _free(settings, Stage(processes, cache, broker, 4000 if settings.quick else 200_000))
        yield _slow(settings, Stage(processes, cache, broker, 1000 if settings.quick else 40_000))


@contextmanager
def _server_apart(processes: Processes) -> Iterator[Server]:
    """The cache's server on a core of its own, where there are two; the clients have the others."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    if len(allowed) < 2:
        yield start_server(processes, "cache", cache_bytes=2**30)
        return
    os.sched_setaffinity(0, {allowed[0]})
    server = start_server(processes, "cache", cache_bytes=2**30)
    os.sched_setaffinity(0, allowed[1:])
    try:
        yield server
    finally:
        os.sched_setaffinity(0, allowed)


def _free(settings: Settings, stage: Stage) -> Table:
    rounds = Settings(settings.quick, settings.contenders, min(settings.rounds, 7), settings.seed)
    with ExitStack() as opened:
        runs = {one.name: opened.enter_context(one.open(stage)) for one in settings.contenders}
        samples = interleaved(runs, rounds)
    better = ratios(samples, REFERENCE, speed=True)
    rows: list[list[str | float]] = [
        [name, median(speeds), better.get(name, 0.0)] for name, speeds in samples.items()
    ]
    return Table(
        f"{stage.keys:,} keys by a loader that costs nothing",
        ("", "keys/s", "times the pipeline"),
        rows,
        plot="times the pipeline",
    )


def _slow(settings: Settings, stage: Stage) -> Table:
    one_call = {"STOKER_JOB__LANES": "1"}
    speeds: dict[int, float] = {}
    for count in (1, 2):
        with stage.workers(count, "slow", **one_call) as job:
            speeds[count] = median(job() for _ in range(2 if settings.quick else 3))
    rows: list[list[str | float]] = [
        [f"{count} worker{'s' * (count > 1)}", speed, speed / speeds[1]] for count, speed in speeds.items()
    ]
    title = f"{stage.keys:,} keys by a loader of 50 ms a call"
    return Table(title, ("", "keys/s", "times one worker"), rows)


def main(arguments: Sequence[str] | None = None) -> int:
    return run("warming", CONTENDERS, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
