"""Sequences of keys for hit ratios: made ones, and recorded ones from a directory that `BENCH_TRACES` names.

Recorded traces are those of the LIRS and cache2k papers as Caffeine's simulator redistributes them: `*.trace.gz` with
one decimal number a line, `*.trace.xz` with big-endian 32-bit numbers. None is part of this project.
"""

import gzip
import lzma
import os
import random
import struct
from collections.abc import Iterator
from itertools import accumulate, islice
from pathlib import Path
from typing import NamedTuple

_MOST = 1_000_000
"""Requests taken of a recorded trace."""
_RECORDED = {"multi2": 1000, "loop": 500, "web07": 2000, "orm-night": 10_000}
"""The capacity at which each is played: where policies differ."""


class Trace(NamedTuple):
    """Keys in the order they are asked for, and the entries a cache may hold."""

    name: str
    capacity: int
    keys: list[str]


def made(seed: int, *, capacity: int = 10_000, requests: int = 500_000) -> Iterator[Trace]:
    """Zipf (exponent 1) over ten times the capacity; the same with scans; with a hot set that changes; a loop."""
    rng = random.Random(seed)
    names = [f"item:{number}" for number in range(10 * capacity)]
    zipf = zipf_keys(names, requests, rng)
    yield Trace("zipf", capacity, zipf)
    yield Trace("zipf and scans", capacity, list(_with_scans(zipf, capacity)))
    shifting = []
    for part in range(5):
        rng.shuffle(names)
        shifting += zipf_keys(names, requests // 5, random.Random(seed + part))
    yield Trace("zipf, hot set changes", capacity, shifting)
    loop = [f"item:{number % (capacity * 6 // 5)}" for number in range(requests)]
    yield Trace("loop", capacity, loop)


def zipf_keys(names: list[str], requests: int, rng: random.Random, skew: float = 1.0) -> list[str]:
    """Names with chances that fall as their rank to the power of `skew`."""
    weights = list(accumulate(rank**-skew for rank in range(1, len(names) + 1)))
    return rng.choices(names, cum_weights=weights, k=requests)


def _with_scans(keys: list[str], capacity: int) -> Iterator[str]:
    """After every three times the capacity of requests, once as many that are never repeated as the cache holds."""
    scanned = 0
    for start in range(0, len(keys), 3 * capacity):
        yield from keys[start : start + 3 * capacity]
        for _ in range(capacity * 3 // 2):
            scanned += 1
            yield f"scan:{scanned}"


def recorded() -> Iterator[Trace]:
    """Those that are there."""
    directory = os.environ.get("BENCH_TRACES")
    for path in sorted(Path(directory).glob("*.trace.*")) if directory else ():
        name = path.name.partition(".")[0]
        if name in _RECORDED:
            yield Trace(name, _RECORDED[name], list(islice(_read(path), _MOST)))


def _read(path: Path) -> Iterator[str]:
    if path.suffix == ".gz":
        with gzip.open(path, "rt") as lines:
            for line in lines:
                if line.strip().isdigit():
                    yield f"item:{line.strip()}"
    else:
        with lzma.open(path) as file:
            while chunk := file.read(4 * 65_536):
                for (number,) in struct.iter_unpack(">I", chunk):
                    yield f"item:{number}"
