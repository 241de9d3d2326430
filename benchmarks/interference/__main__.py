"""The command: measures, and prints a table."""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from benchmarks.interference.measure import App, Times, app, evictions, invalidations, percentile, warm_rate
from benchmarks.interference.stage import Stage, on
from stoker.config import open_cache
from stoker.tasks import JobHandle, JobStatus, configure, runtime, send
from stoker.worker.processes import Processes

INVALIDATION_P99_MS = 100.0
READS_RATIO = 3.0
UNDER_WAY_WITHIN_S = 30.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    keys: int
    idle_s: float
    invalidations: int


FULL = Sizes(keys=200_000, idle_s=25, invalidations=1000)
QUICK = Sizes(keys=20_000, idle_s=2, invalidations=40)


@dataclass(frozen=True, slots=True)
class Spread:
    """Of some times, in ms."""

    samples: int
    p50: float
    p99: float
    longest: float

    @classmethod
    def of(cls, times: Times) -> "Spread":
        p50, p99 = (round(1000 * percentile(times, share), 3) for share in (0.5, 0.99))
        return cls(len(times), p50, p99, round(1000 * max(times), 3))


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it.

    Attributes:
        pinned: Whether the app and the background had a core each.
        full_rate: Keys a second of a warm without a limit.
        cap: The limit of the warm under which the rest was measured: half of that.
        capped_rate: What that came to, beside all else that the background does.
        invalidations: From asking for one to its effect, under it.
        idle, warming: Lateness of an app's reads, before it and under it.
        besides: The same under it and the invalidations, with the sweeps that follow them.
        evicting: The same under evictions alone, one after the other.
        evicted: Entries that they dropped.
        ratio: Of the p99 of warming and idle.
        evicting_ratio: Of evicting and idle.
    """

    pinned: bool
    full_rate: int
    cap: int
    capped_rate: int
    invalidations: Spread
    idle: Spread
    warming: Spread
    besides: Spread
    evicting: Spread
    evicted: int
    ratio: float
    evicting_ratio: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    options = _parser().parse_args(arguments)
    for name in [name for name in os.environ if name.startswith("STOKER_")]:
        del os.environ[name]  # settings of this machine have no place in it
    result = measure(QUICK if options.quick else FULL)
    if options.json:
        sys.stdout.write(f"{json.dumps(asdict(result), indent=1)}\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for line in table(result)))
    return 0


def measure(sizes: Sizes) -> Result:
    """Run it all, and leave nothing behind.

    Raises:
        ChildEnded: A server or worker has ended; NotEffective: an invalidation was lost.
    """
    with Processes() as processes:
        stage = Stage(processes)
        configure(stage.settings)
        try:
            with app(stage.settings, stage.front) as reader, on(stage.back):
                return _measure(stage, reader, sizes)
        finally:
            runtime.current().close()


def _measure(stage: Stage, reader: App, sizes: Sizes) -> Result:
    with stage.warming(sizes.keys, None):
        _say("warming as fast as it goes")
        full = warm_rate("free", sizes.keys)
    _say("reading, with nothing else to do")
    idle = reader.read_for(sizes.idle_s).result()
    cap = round(full / 2)
    with stage.warming(10**9, cap), open_cache(stage.settings) as cache:
        _say(f"warming at {cap:,} keys/s at most, and reading")
        job = send.warm_plan("capped")
        invalidations(cache, 10)  # until connections are open
        before = _under_way(job)
        warming, after = reader.read_for(sizes.idle_s).result(), job.status()
        _say("invalidating besides")
        reads = reader.read_for(sizes.idle_s)
        times = invalidations(cache, sizes.invalidations)
        besides = reads.result()
        job.abort()
    stage.stop_standing()
    with open_cache(stage.settings) as cache:
        _say("evicting, and reading")
        reads = reader.read_for(sizes.idle_s)
        evicted = evictions(cache, reads)
        evicting = Spread.of(reads.result())
    rate = (after.done - before.done) / (after.updated_at - before.updated_at)
    spreads = Spread.of(idle), Spread.of(warming), Spread.of(besides)
    ratio, evicting_ratio = (round(one.p99 / spreads[0].p99, 2) for one in (spreads[1], evicting))
    pinned = stage.front is not None
    shown = pinned, round(full), cap, round(rate), Spread.of(times), *spreads, evicting, evicted
    return Result(*shown, ratio=ratio, evicting_ratio=evicting_ratio)


def _under_way(job: JobHandle) -> JobStatus:
    """Wait until the job has done something."""
    deadline = time.monotonic() + UNDER_WAY_WITHIN_S
    while not (status := job.status()).done:
        if time.monotonic() > deadline:
            raise TimeoutError(f"job {job.id} has done nothing in {UNDER_WAY_WITHIN_S:g} s")
        time.sleep(0.05)
    return status


def table(result: Result) -> Iterator[str]:
    """All figures, as Markdown."""
    yield f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    yield f"app and background on a core each: {'yes' if result.pinned else 'no, there is one'}"
    yield f"warming: {result.full_rate:,} keys/s; with a limit of {result.cap:,}, {result.capped_rate:,} meanwhile"
    yield ""
    yield "| ms | p50 | p99 | longest | samples | aim |"
    yield "| --- | --: | --: | --: | --: | --- |"
    aim = f"p99 at most {INVALIDATION_P99_MS:g}"
    yield _line("invalidation by task, until it is effective", result.invalidations, aim)
    yield _line("read, nothing else to do", result.idle, "")
    aim = f"p99 at most {READS_RATIO:g} times that, is {result.ratio:g} times"
    yield _line("read, while warming", result.warming, aim)
    yield _line("read, while warming, invalidating and sweeping", result.besides, "")
    aim = f"p99 at most {READS_RATIO:g} times idle, is {result.evicting_ratio:g} times"
    yield _line(f"read, while {result.evicted:,} entries are evicted", result.evicting, aim)


def _line(name: str, spread: Spread, aim: str) -> str:
    figures = f"{spread.p50:.2f} | {spread.p99:.2f} | {spread.longest:.2f} | {spread.samples:,}"
    return f"| {name} | {figures} | {aim} |"


def _say(what: str) -> None:
    sys.stderr.write(f"{what}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.interference", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few samples, to see that it works")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
