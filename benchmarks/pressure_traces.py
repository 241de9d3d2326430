"""The two traces of `pressure`: keys of every size and load cost, and the same with a neighbour that scans.

M: 200,000 keys asked for by zipf (exponent 0.9), values of lognormal sizes (median 400 bytes, sigma 1.2), loads of
lognormal costs (median 5 ms, sigma 1.5) that have nothing to do with the size. N: M for nine tenants, and for every
request of theirs one of a tenth, which walks over ten times what its quota holds.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.traces import zipf_keys

KEYS, REQUESTS, SKEW = 200_000, 2_000_000, 0.9
SCANNER = "tenant-9"
Asked = tuple[str, str]
"""A tenant and a key."""


@dataclass(frozen=True)
class Mix:
    """Requests in order, and of every key what its value takes and its load costs.

    Attributes:
        sizes: Bytes of the value.
        costs_us: Microseconds.
    """

    asked: list[Asked]
    sizes: dict[Asked, int]
    costs_us: dict[Asked, int]


def mixed(seed: int, keys: int = KEYS, requests: int = REQUESTS, tenants: int = 1) -> Mix:
    """Trace M, its keys spread over so many tenants."""
    rng = random.Random(seed)
    names = [(f"tenant-{number % tenants}", f"item:{number}") for number in range(keys)]
    rng.shuffle(names)
    sizes = {name: _lognormal(rng, 400, 1.2) for name in names}
    costs = {name: _lognormal(rng, 5000, 1.5) for name in names}
    by_key = {key: (tenant, key) for tenant, key in names}
    asked = zipf_keys([key for _, key in names], requests, rng, SKEW)
    return Mix([by_key[key] for key in asked], sizes, costs)


def noisy(seed: int, scanned_bytes: int, overhead: int, keys: int = KEYS, requests: int = REQUESTS) -> Mix:
    """Trace N. The scanner's entries take `scanned_bytes` in all, each `overhead` beside its value."""
    mix = mixed(seed, keys, requests // 2, tenants=9)
    rng = random.Random(-seed)
    left = scanned_bytes
    scanned: list[Asked] = []
    while left > 0:
        name = (SCANNER, f"item:{len(scanned)}")
        mix.sizes[name] = _lognormal(rng, 400, 1.2)
        mix.costs_us[name] = _lognormal(rng, 5000, 1.5)
        left -= mix.sizes[name] + overhead
        scanned.append(name)
    return Mix(list(_by_turns(mix.asked, scanned)), mix.sizes, mix.costs_us)


def _by_turns(asked: list[Asked], scanned: list[Asked]) -> Iterator[Asked]:
    for number, one in enumerate(asked):
        yield one
        yield scanned[number % len(scanned)]


def _lognormal(rng: random.Random, median: float, sigma: float) -> int:
    return max(1, round(median * math.exp(rng.gauss(0, sigma))))
