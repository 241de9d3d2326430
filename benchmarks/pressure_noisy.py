"""What nine tenants lose when a tenth scans: trace N of `pressure_traces`, by the server's own policy and with quotas.

    python -m benchmarks.pressure_noisy [--seed 1] [--quick]

Played as `pressure` does. The scanner walks over ten times what his quota holds, in half of all requests; the nine are
compared with themselves on a server like it without him. Both are played side by side, so that the nine ask as often in
a minute: counters of reads fall by one in each, and the trace beside the scanner takes several times as long.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

from benchmarks.harness import Contender, Settings, Table, run
from benchmarks.pressure import Outcome, Way, memory_bytes, overhead_bytes, play, side_by_side
from benchmarks.pressure_traces import KEYS, REQUESTS, SCANNER, Mix, mixed, noisy
from stoker.cache import evict, quotas
from stoker.cache.quotas import Quota, Quotas

QUOTA = 0.1
"""Of the scanner, as a share of `maxmemory`: what each of ten tenants would have."""
JOB = Way("volatile-lfu", job=True)
CONTENDERS = (
    Contender("volatile-lfu", lambda: (Way("volatile-lfu", job=False), Quotas())),
    Contender("stoker without quotas", lambda: (JOB, Quotas())),
    Contender("stoker with a soft quota", lambda: (JOB, Quotas(tenants={SCANNER: Quota(soft=QUOTA)}))),
    Contender("stoker with a hard quota", lambda: (JOB, Quotas(tenants={SCANNER: Quota(hard=QUOTA)}))),
)


def measure(settings: Settings) -> Iterator[Table]:
    keys, requests = (20_000, 20_000) if settings.quick else (KEYS, REQUESTS)
    trace, room = scene(settings.seed, keys, requests)
    rows: list[list[str | float]] = [
        [one.name, *hit_rates(trace, room, *one.open())] for one in settings.contenders
    ]
    yield Table(
        f"Trace N, seed {settings.seed}",
        ("", "nine alone, hits %", "nine beside the scanner, hits %", "lost, points", "scanner, hits %"),
        rows,
        f"{requests:,} requests on a server with {room / 2**20:.1f} MiB for entries.",
        plot="lost, points",
    )


def scene(seed: int, keys: int = KEYS, requests: int = REQUESTS) -> tuple[Mix, int]:
    """The trace, and the bytes that its server has for entries."""
    overhead = overhead_bytes()
    room = memory_bytes(mixed(seed, keys, 0, tenants=9), overhead)
    return noisy(seed, round(10 * QUOTA * room), overhead, keys, requests), room


def hit_rates(trace: Mix, room: int, way: Way, limits: Quotas) -> tuple[float, float, float, float]:
    """Percent: of the nine alone, of them beside the scanner, what they lost, and his own."""
    alone, beside = Outcome(), Outcome()
    side_by_side([play(_without_scanner(trace), way, room, alone), play(trace, way, room, beside, limits)])
    had, have = alone.hit_rate(_is_ours), beside.hit_rate(_is_ours)
    return had, have, had - have, beside.hit_rate(lambda name: name == SCANNER)


def _is_ours(tenant: str) -> bool:
    return tenant != SCANNER


def _without_scanner(trace: Mix) -> Mix:
    return replace(trace, asked=[one for one in trace.asked if one[0] != SCANNER])


def main(arguments: Sequence[str] | None = None) -> int:
    evict.REST = 0.0  # the trace waits: there is nobody to make way for
    quotas.LOOK_EVERY_S = 0.0  # and time is hundreds of times faster
    return run("pressure_noisy", CONTENDERS, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
