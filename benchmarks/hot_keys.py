"""What learning the hot keys costs a read: the same reads with and without the sample, in turns in one process.

    python -m benchmarks.hot_keys [--pairs 1000] [--seed 1]

A pair is two blocks of the same reads, one on each of two caches that differ in nothing else; which goes first
alternates. Shown is the median of the pairs' ratios with half of them around it: of the time that passed, and of the
processor's time of this thread, which leaves out the server and whoever else is on the machine. A cache in memory takes
no sample, for there is no fleet to learn from, so there is nothing to measure.
"""

import argparse
import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from stoker.cache import Cache, CacheConfig
from stoker.cache.traffic import FLUSH_EVERY_S, Traffic
from stoker.worker.embedded import embedded_server

KEYS = 10_000
READS = 200
"""In a block: some 10 ms."""


class Unsampled(Traffic):
    """Counts as `Traffic` does, without the sample."""

    def note(self, tenant_id: str | None, key: str, hit: bool, times: int = 1) -> bool:
        self.counts_of(tenant_id, key)[0 if hit else 1] += times
        if not self._shared:
            return False
        return time.monotonic() - self._flushed_at >= FLUSH_EVERY_S


@contextmanager
def caches() -> Iterator[tuple[Cache, Cache]]:
    """Two caches with the same entries: one that takes a sample, and one that does not."""
    with embedded_server("cache") as server:
        config = CacheConfig(backend="redis", redis_url=server.url, default_ttl=None)
        with Cache(config) as sampling, Cache(config) as other:
            other._core.traffic = Unsampled(shared=True)
            other.set_many({f"key:{number}": number for number in range(KEYS)})
            yield sampling, other


def seconds(cache: Cache, keys: Sequence[str]) -> tuple[float, float]:
    """How long it takes to read these keys: by the clock, and of the processor."""
    get = cache.get
    began, began_on_it = time.perf_counter(), time.thread_time()
    for key in keys:
        get(key)
    return time.perf_counter() - began, time.thread_time() - began_on_it


def ratios(pairs: int, seed: int) -> list[tuple[float, float]]:
    """Of each pair the times with the sample to the times without."""
    randomness = random.Random(seed)
    weights = [1 / (rank + 1) for rank in range(KEYS)]
    names = [f"key:{number}" for number in range(KEYS)]
    found: list[tuple[float, float]] = []
    with caches() as (sampling, other):
        for number in range(-2, pairs):  # two to warm up
            keys = randomness.choices(names, weights, k=READS)
            if number % 2:
                with_, without = seconds(sampling, keys), seconds(other, keys)
            else:
                without, with_ = seconds(other, keys), seconds(sampling, keys)
            if number >= 0:
                found.append((with_[0] / without[0], with_[1] / without[1]))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.hot_keys", description=__doc__)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    found = ratios(options.pairs, options.seed)
    for what, ratio in zip(("time", "processor"), zip(*found, strict=True), strict=True):
        low, middle, high = statistics.quantiles(ratio, n=4)
        spread = f"half of {len(found)} pairs: {low - 1:+.1%} to {high - 1:+.1%}"
        sys.stdout.write(f"{what:9}  {middle - 1:+.1%}  ({spread}; seed {options.seed})\n")


if __name__ == "__main__":
    main()
