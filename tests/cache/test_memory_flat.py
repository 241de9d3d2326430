"""A memory cache in use for long: memory, threads and descriptors stay where they were."""

import gc
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from stoker.cache import Cache, CacheConfig


def rotate(cache: Cache, operations: int, begin: int) -> None:
    """Keys that never come back, bans on some of them, expiry on others, tokens and loads."""
    for number in range(begin, begin + operations // 4):
        key, tenant = f"k:{number}", f"tenant {number % 5}"
        cache.set(
            key,
            number,
            tenant,
            ttl=0.01 if number % 3 else None,
            tags=(f"t{number}",) if number % 7 == 0 else (),
        )
        cache.get(key, tenant)
        cache.get(f"k:{number - 50}", tenant)
        match number % 8:
            case 0:
                cache.invalidate_pattern(f"?:*{number % 400}", tenant)
            case 2 | 4:
                cache.invalidate_tags([f"t{number}"], tenant)
            case 5:
                cache.get_or_load(f"loaded:{number}", partial(int, number), tenant)
            case 6:
                cache.snapshot(f"token:{number}", tenant, hold=0.01)
            case _:
                cache.delete(f"k:{number - 1}", tenant)


def used(cache: Cache) -> tuple[int, int, int]:
    """Blocks that Python has allocated, threads, descriptors; with no dead entries and old bans, which come and go."""
    cache.sweep()
    gc.collect()
    descriptors = Path("/proc/self/fd")
    return (
        sys.getallocatedblocks(),
        threading.active_count(),
        len(list(descriptors.iterdir())) if descriptors.exists() else 0,
    )


@pytest.mark.parametrize("eviction", ["lru", "s3fifo"])
@pytest.mark.parametrize(
    ("first", "more"),
    [
        pytest.param(16_000, 16_000, id="short"),
        pytest.param(1_000_000, 9_000_000, id="ten million", marks=pytest.mark.slow),
    ],
)
@pytest.mark.timeout(1800)
def test_rotating_keys_and_bans_leave_no_more_behind_than_at_first(
    eviction: Any, first: int, more: int
) -> None:
    cache = Cache(CacheConfig(max_size=1000, eviction=eviction))
    rotate(cache, first, 0)
    looks = [used(cache)]
    # What lives at a look depends on the clock, and Python keeps some blocks back the first time that it needs them.
    # What leaks adds up: there is more of it at each look.
    for begin in range(first, first + 3 * more, more):
        rotate(cache, more, begin)
        looks.append(used(cache))
        if looks[-1][0] < looks[-2][0] + 3000:
            break
    assert looks[-1][1:] == looks[0][1:]
    assert looks[-1][0] < looks[-2][0] + 3000, f"blocks of Python objects, threads, descriptors: {looks}"
