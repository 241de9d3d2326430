"""How long one read takes from here."""

from collections.abc import Iterator
from secrets import token_hex
from statistics import median, quantiles
from time import monotonic, perf_counter

from stoker.cache.backends import Write
from stoker.worker.doctor.check import Finding, ok, warning
from stoker.worker.doctor.system import TENANT, System

READS = 200
AT_MOST_S = 3.0
SLOW_MEDIAN_MS = 5.0
SLOW_P99_MS = 50.0
_CANARY_TTL_MS = 60_000


def check(system: System) -> Iterator[Finding]:
    took = _reads(system)
    middle, worst = median(took), quantiles(took, n=100)[-1] if len(took) > 1 else took[0]
    told = f"{len(took)} reads: median {middle:.2f} ms, p99 {worst:.1f} ms"
    if middle > SLOW_MEDIAN_MS:
        yield warning(
            told,
            "the server is far away, or it or this machine has too little CPU",
            f"run apps and workers near {system.cache_server.address}; "
            "SLOWLOG GET 10 and INFO commandstats there name commands that take long",
        )
    elif worst > SLOW_P99_MS:
        yield warning(
            told,
            "now and then something holds the server up: a long command, very large values, a fork for saving, or "
            "another program on its machine",
            f'SLOWLOG GET 10 and LATENCY DOCTOR at {system.cache_server.address}; save "" in its configuration',
        )
    else:
        yield ok(told)


def _reads(system: System) -> list[float]:
    """Milliseconds of each read of one small entry."""
    backend, key = system.backend, f"latency:{token_hex(8)}"
    system.run(backend.store(TENANT, [(key, Write("canary", _CANARY_TTL_MS, 0, (), 0))]))
    try:
        system.run(backend.read(TENANT, key))  # opens the connection
        took: list[float] = []
        until = monotonic() + AT_MOST_S
        while len(took) < READS and (not took or monotonic() < until):
            began = perf_counter()
            system.run(backend.read(TENANT, key))
            took.append((perf_counter() - began) * 1000)
        return took
    finally:
        system.run(backend.delete(TENANT, key))
