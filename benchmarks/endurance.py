"""Whether anything grows: millions of operations on Redis, on ever new keys, with invalidations and sweeps among them.

After each million stand the memory of this process, its descriptors and threads, and the server's connections, memory
and ban log. Every key is set, read by `get_many`, and gone soon: by a pattern, a tag, `delete`, or its TTL. Calls and
tasks take turns, and copies are kept. The command fails where something is above what it was after the first million.
"""

import argparse
import asyncio
import gc
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import redis

from benchmarks.harness import shown
from stoker.cache import AsyncCache, Cache, CacheConfig
from stoker.worker.embedded import embedded_server

_BATCH = 500
_TASKS = 20
_SWEEP_EVERY = 50
_TTL_S = 5
_MORE = {"MB": 1.1, "server MB": 1.3}
"""How many times as much is no growth; of all else as much as there was, and a little."""
_A_LITTLE = 8


class Use(NamedTuple):
    """What is in use after so many operations; this process's where it does not say server."""

    operations: int
    megabytes: float
    descriptors: int
    threads: int
    connections: int
    server_megabytes: float
    bans: int


COLUMNS = ("operations", "MB", "descriptors", "threads", "connections", "server MB", "bans")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print a line for each part, and say whether anything has grown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endurance", description=__doc__)
    parser.add_argument("--operations", type=int, default=10_000_000, help="keys set and read, about")
    parser.add_argument("--every", type=int, default=1_000_000, help="operations between two looks")
    options = parser.parse_args(arguments)
    _say(f"| {' | '.join((*COLUMNS, 'a second'))} |\n| {' | '.join(['--:'] * (len(COLUMNS) + 1))} |")
    with embedded_server("cache") as server:
        looks = asyncio.run(_run(server.url, options.operations, options.every))
    grown = growth(looks[0], looks[-1])
    _say(f"\ngrown since the first look: {', '.join(grown) or 'nothing'}")
    return 1 if grown else 0


def growth(first: Use, last: Use) -> list[str]:
    """What the last look shows more of than the first."""
    columns = zip(COLUMNS[1:], first[1:], last[1:], strict=True)
    return [name for name, before, now in columns if now > before * _MORE.get(name, 1.0) + _A_LITTLE]


async def _run(url: str, operations: int, every: int) -> list[Use]:
    config = CacheConfig(
        backend="redis",
        redis_url=url,
        namespace="long",
        default_ttl=_TTL_S,
        max_load=0.5,
        lease=0.5,
        near_size=1000,
    )
    client: Any = redis.Redis.from_url(url)
    looks: list[Use] = []
    with Cache(config) as cache:
        tasks = AsyncCache(cache)
        done = turn = 0
        began = time.perf_counter()
        while done < operations:
            done += await _turn(cache, tasks, turn)
            turn += 1
            if done >= every * (len(looks) + 1):
                looks.append(_use(done, client, cache))
                rate = every / (time.perf_counter() - began)
                _say(f"| {' | '.join(map(shown, (*looks[-1], rate)))} |")
                began = time.perf_counter()
        await tasks.close()
    return looks


async def _turn(cache: Cache, tasks: AsyncCache, turn: int) -> int:
    """Set new keys of a new family and read them; invalidate some of them and of those before. Returns how many."""
    family, tenant = f"f{turn}", f"tenant-{turn % 50}"
    values = {f"{family}:{number}": [turn, number] for number in range(_BATCH)}
    if turn % 2:
        cache.set_many(values, tenant, tags=[f"tag-{turn % 1000}"])
        found = cache.get_many(values, tenant)
        for key in list(values)[:_TASKS]:
            cache.get(key, tenant)
    else:
        await tasks.set_many(values, tenant, tags=[f"tag-{turn % 1000}"])
        found = await tasks.get_many(values, tenant)
        await asyncio.gather(*(tasks.get(key, tenant) for key in list(values)[:_TASKS]))
    if len(found) < _BATCH // 2:  # the server may have evicted a few
        raise RuntimeError(f"{len(found)} of {_BATCH} keys were there")
    cache.delete(f"{family}:0", tenant)
    if turn % 3 == 0:
        await tasks.invalidate_pattern(f"{family}:1*", tenant)
    elif turn % 3 == 1:
        cache.invalidate_tags([f"tag-{turn % 1000}"], tenant)
    else:
        cache.invalidate_pattern(f"{family}:?2", tenant)
    if turn % _SWEEP_EVERY == 0:
        await tasks.sweep()
    return 2 * _BATCH + _TASKS


def _use(done: int, client: Any, cache: Cache) -> Use:
    gc.collect()
    return Use(
        done,
        _resident() / 2**20,
        len(os.listdir("/proc/self/fd")),
        threading.active_count(),
        len(client.client_list()),
        client.info("memory")["used_memory"] / 2**20,
        cache.explain("any")["bans"],
    )


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
