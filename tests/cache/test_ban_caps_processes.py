"""Processes that ban, coalesce and prune, sweep and read beside each other; those that ban are killed, too."""

import multiprocessing
import random
import signal
import time
from functools import partial
from multiprocessing.context import SpawnProcess
from typing import Any, NamedTuple

import pytest

from stoker.cache import Cache, control
from stoker.cache.caps import BanNews, Caps, Coalesced
from stoker.cache.control import BanLog
from stoker.worker.embedded import embedded_server
from tests.cache.ban_world import KEYS, TENANTS, a_shard, connect, some_rules, sweeper, tag_of
from tests.waiting import wait_until

KILLS = 12
READERS, WRITERS = 3, 3
FRESH_EVERY = 40
"""Reads after which a reader begins anew, as a process that knows nothing yet."""
NAMES = [(tenant, key) for tenant in TENANTS for key in KEYS]
COUNTS = ("reads", "loads", "bans", "coalesced", "retired")


class Shared(NamedTuple):
    """What all processes see, without a lock that one of them may die with: a key's truth is raised by one only."""

    truth: Any
    acknowledged: Any
    counts: Any
    over: Any
    url: str

    def add(self, slot: int, what: str, by: int = 1) -> None:
        self.counts[slot * len(COUNTS) + COUNTS.index(what)] += by

    def get(self, slot: int, what: str) -> int:
        return int(self.counts[slot * len(COUNTS) + COUNTS.index(what)])

    def total(self, what: str) -> int:
        return sum(self.counts[COUNTS.index(what) :: len(COUNTS)])


def read(shared: Shared, slot: int, seed: int, stale: Any) -> None:
    chance = random.Random(seed)

    def load(n: int) -> int:
        shared.add(slot, "loads")
        version = int(shared.truth[n])
        time.sleep(chance.random() * 0.002)
        return version

    while not shared.over.value:
        with Cache(sweeper(shared.url, "caps").config) as cache:
            for _ in range(FRESH_EVERY):
                n = chance.randrange(len(NAMES))
                tenant, key = NAMES[n]
                least = shared.acknowledged[n]
                version = cache.get_or_load(
                    key, partial(load, n), tenant_id=tenant, ttl=60, tags=[tag_of(key)]
                )
                shared.add(slot, "reads")
                if version < least:
                    stale.put(f"{tenant} {key} has version {version} after {least} was acknowledged")
                    return


def write(shared: Shared, slot: int, seed: int) -> None:
    """Only keys of its own get a new version; what else its rules name is killed for nothing."""
    BanLog.caps = Caps(patterns=3, named=6, many_patterns=2, many_bans=8, stride=2)
    control._PAGE = 4
    chance = random.Random(seed)
    mine = range(slot, len(NAMES), WRITERS)
    news: list[BanNews] = []
    transport, shard = connect(shared.url, "caps"), a_shard("caps", news)
    while not shared.over.value:
        tenant = chance.choice(TENANTS)
        rules, keys = some_rules(chance, tenant)
        raised = [n for n in mine if NAMES[n][0] == tenant and NAMES[n][1] in keys]
        for n in raised:
            shared.truth[n] += 1
        length = transport.run(shard.ban([rule.member() for rule in rules]))
        for n in raised:
            shared.acknowledged[n] = shared.truth[n]
        shared.add(slot, "bans")
        if length:
            transport.run(shard.shorten(length))
            shared.add(slot, "coalesced", sum(isinstance(one, Coalesced) for one in news))
            news.clear()
        time.sleep(chance.random() * 0.01)
    transport.close()


def sweep(shared: Shared, slot: int) -> None:
    with sweeper(shared.url, "caps") as cache:
        while not shared.over.value:
            shared.add(slot, "retired", cache.sweep().retired)
            time.sleep(0.02)


@pytest.mark.slow
def test_nothing_stale_is_read_while_processes_keep_a_ban_log_short() -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    spawn = multiprocessing.get_context("spawn")
    slots = WRITERS + READERS + 1
    stale = spawn.SimpleQueue()
    with embedded_server("cache") as server:
        shared = Shared(
            spawn.RawArray("q", [1] * len(NAMES)),
            spawn.RawArray("q", len(NAMES)),
            spawn.RawArray("q", slots * len(COUNTS)),
            spawn.RawValue("b"),
            server.url,
        )

        def start(role: Any, slot: int, *args: Any) -> SpawnProcess:
            process = spawn.Process(target=role, args=(shared, slot, *args))
            process.start()
            return process

        writers = [start(write, n, chance.randrange(2**32)) for n in range(WRITERS)]
        others = [start(read, n, chance.randrange(2**32), stale) for n in range(WRITERS, WRITERS + READERS)]
        others.append(start(sweep, slots - 1))

        def banned(slot: int, enough: int) -> bool:
            return shared.get(slot, "bans") >= enough or not stale.empty()

        kills = 0
        while kills < KILLS and stale.empty():
            victim = chance.randrange(WRITERS)
            enough = shared.get(victim, "bans") + chance.randrange(1, 60)
            wait_until(partial(banned, victim, enough))
            writers[victim].kill()
            writers[victim].join()
            kills += writers[victim].exitcode == -signal.SIGKILL
            writers[victim] = start(write, victim, chance.randrange(2**32))
        shared.over.value = 1
        for process in [*writers, *others]:
            process.join()
            assert process.exitcode == 0
    figures = {"seed": seed, "kills": kills, **{what: shared.total(what) for what in COUNTS}}
    assert stale.empty(), f"{stale.get()}; {figures}"
    assert figures["reads"] > 5_000, figures
    assert figures["loads"] < 0.8 * figures["reads"], figures
    assert min(figures["coalesced"], figures["retired"]) > 10, figures
