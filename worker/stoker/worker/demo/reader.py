"""A reader of the demo, a process of its own: reads through the cache and checks every value it gets.

Before each read it looks up which version of the airport is acknowledged; a value older than that is a stale read.
`demo` runs it with its role as the only argument.
"""

import random
import sys
import threading
import time
from typing import Any

from stoker.cache import Cache
from stoker.config import Settings, open_cache
from stoker.worker.demo import airports, loaders
from stoker.worker.demo.airports import Airport, Traffic
from stoker.worker.demo.board import Board, Count
from stoker.worker.demo.breaking import GUARDS
from stoker.worker.demo.roles import Role

PAUSE_S = 0.003
"""Mean time between two reads of one thread, so that a machine of two cores is not all readers."""


def main() -> None:
    role = Role.from_argument(sys.argv[1])
    if role.broken:
        GUARDS[role.broken]()
    loaders.SLOWED_BY_S = role.slowed_by_s
    known = airports.every(loaders.database())
    with Board(role.board_path, len(known), role.all_threads) as board, open_cache(Settings()) as cache:
        readers = [
            Reader(cache, board, role.first_thread + place, Traffic(known, role.seed))
            for place in range(role.threads)
        ]
        for reader in readers:
            reader.start()
        board.put(role.first_thread, Count.BEGUN, 1)
        while any(reader.is_alive() for reader in readers):
            readers[0].join(0.1)
            tell_hits(cache, board, role.first_thread)
        for reader in readers:
            reader.join()
    if any(reader.failed for reader in readers):
        sys.exit(1)


def tell_hits(cache: Cache, board: Board, thread: int) -> None:
    stats = cache.stats()
    board.put(thread, Count.HITS, stats.hits)
    board.put(thread, Count.MISSES, stats.misses)


class Reader(threading.Thread):
    """One thread that reads until the board says stop. An exception ends it and fails the process."""

    def __init__(self, cache: Cache, board: Board, number: int, traffic: Traffic) -> None:
        super().__init__(name=f"reader-{number}")
        self.failed = True  # until it has ended well
        self._cache = cache
        self._board = board
        self._number = number
        self._traffic = traffic
        self._rng = random.Random(number)
        self._told = False

    def run(self) -> None:
        while not self._board.stopped:
            self._read()
            time.sleep(self._rng.uniform(0, 2 * PAUSE_S))
        self.failed = False

    def _read(self) -> None:
        dice = self._rng.random()
        if dice < 0.7:
            airport = self._traffic.pick(self._rng)
            acked = self._board.acked(airport.number)
            self._check(airport, acked, self._cache.get_or_load(airport.key, tenant_id=airport.country))
        elif dice < 0.9:
            airport = self._traffic.pick(self._rng)
            acked = self._board.acked(airport.number)
            value = self._cache.get(airport.key, tenant_id=airport.country)
            if value is not None:
                self._check(airport, acked, value)
        else:
            self._read_many()

    def _read_many(self) -> None:
        """Several airports of one country in one call."""
        country = self._traffic.pick(self._rng).country
        picked = [self._traffic.pick(self._rng) for _ in range(30)]
        acked = {a.key: (a, self._board.acked(a.number)) for a in picked if a.country == country}
        for key, value in self._cache.get_many(acked, tenant_id=country).items():
            self._check(*acked[key], value)

    def _check(self, airport: Airport, acked: int, value: dict[str, Any]) -> None:
        self._board.add(self._number, Count.READS)
        if (value["icao"], value["country"]) != (airport.icao, airport.country):
            self._board.add(self._number, Count.STRAY)
        if value["version"] < acked:
            self._board.add(self._number, Count.STALE)
            self._tell(airport, acked, value["version"])

    def _tell(self, airport: Airport, acked: int, version: int) -> None:
        """Describe this thread's first stale read in the log; all are counted."""
        if not self._told:
            self._told = True
            text = (
                f"{airport.key} of {airport.country}: read version {version} after {acked} was acknowledged"
            )
            print(text, flush=True)  # noqa: T201 - the log of this process is its standard output


if __name__ == "__main__":
    main()
