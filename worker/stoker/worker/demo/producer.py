"""The producer of the demo, a process of its own: changes rows, invalidates them, says so on the board.

The order is what every app has to keep: commit, then invalidate, and only what was acknowledged is promised.
It alternates between asking the cache directly and asking for a job, and measures how long the old value
is served after the question. `demo` runs it with its role as the only argument.
"""

import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stoker.cache import Cache
from stoker.config import Settings, open_cache
from stoker.tasks import JobHandle, TaskError, send
from stoker.worker.demo import airports, loaders
from stoker.worker.demo.airports import Airport, Traffic
from stoker.worker.demo.board import Board, Count
from stoker.worker.demo.roles import Role

PAUSE_S = 0.02
"""Mean time between two changes."""
JOB_WITHIN_S = 30.0
EFFECT_WITHIN_S = 5.0
_TAG = "airports"
_KINDS = {"key": 14, "pattern": 4, "tag": 1, "tenant": 1}  # how often of 20


@dataclass(frozen=True, slots=True)
class Change:
    """One kind of change around an airport: which rows, and the two ways to invalidate what is cached of them."""

    kind: str
    rows: str
    values: tuple[Any, ...]
    directly: Callable[[Cache], object]
    as_job: Callable[[], JobHandle]


@dataclass(slots=True)
class Outcome:
    """What the producer has to tell in the end. Times are milliseconds from asking until a read shows the effect."""

    direct_ms: list[float] = field(default_factory=list)
    job_ms: list[float] = field(default_factory=list)
    invalidations: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_KINDS, 0))
    failures: list[str] = field(default_factory=list)

    @classmethod
    def file(cls, board: Path) -> Path:
        return board.with_name("producer.json")


def main() -> None:
    role = Role.from_argument(sys.argv[1])
    known = airports.every(loaders.database())
    with Board(role.board_path, len(known), role.all_threads) as board, open_cache(Settings()) as cache:
        producer = Producer(cache, board, role, Traffic(known, role.seed))
        board.put(role.first_thread, Count.BEGUN, 1)
        while not board.stopped:
            producer.change_something()
        Outcome.file(role.board_path).write_text(json.dumps(asdict(producer.outcome)))


class Producer:
    def __init__(self, cache: Cache, board: Board, role: Role, traffic: Traffic) -> None:
        self.outcome = Outcome()
        self._cache = cache
        self._board = board
        self._thread = role.first_thread
        self._traffic = traffic
        self._rng = random.Random(role.seed)
        self._by_job = False

    def change_something(self) -> None:
        """One change, or a few of one airport in quick succession: then loads of the old row are under way."""
        airport = self._traffic.pick(self._rng)
        kind = self._rng.choices(list(_KINDS), list(_KINDS.values()))[0]
        for _ in range(self._rng.randint(1, 3) if kind == "key" else 1):
            self._by_job = not self._by_job
            self._change(airport, change_of(kind, airport))
            time.sleep(self._rng.uniform(0, 2 * PAUSE_S))

    def _change(self, airport: Airport, change: Change) -> None:
        versions = airports.change(loaders.database(), change.rows, change.values)
        newest = versions[airport.number]
        was_old = self._serves_older(airport, newest)
        asked = time.perf_counter()
        try:
            job = self._invalidate(change)
            effect_s = self._effect(airport, newest, asked)
            if job is not None:
                job.wait(timeout=JOB_WITHIN_S)
        except (TaskError, TimeoutError) as error:
            self.outcome.failures.append(f"{change.kind}: {error}")
            return
        self._board.acknowledge(versions)
        self._board.add(self._thread, Count.INVALIDATIONS)
        self.outcome.invalidations[change.kind] += 1
        if effect_s is None:
            self.outcome.failures.append(
                f"{change.kind}: {airport.key} was still old after {EFFECT_WITHIN_S:g} s"
            )
        elif was_old:
            (self.outcome.direct_ms if job is None else self.outcome.job_ms).append(effect_s * 1000)

    def _invalidate(self, change: Change) -> JobHandle | None:
        if self._by_job:
            return change.as_job()
        change.directly(self._cache)
        return None

    def _effect(self, airport: Airport, newest: int, asked: float) -> float | None:
        """Seconds from asking until the old value is no longer served; None if it is for far too long."""
        while self._serves_older(airport, newest):
            if time.perf_counter() - asked > EFFECT_WITHIN_S:
                return None
            time.sleep(0.0005)
        return time.perf_counter() - asked

    def _serves_older(self, airport: Airport, newest: int) -> bool:
        value = self._cache.get(airport.key, tenant_id=airport.country)
        return value is not None and value["version"] < newest


def change_of(kind: str, airport: Airport) -> Change:
    """The rows around an airport that a kind of invalidation names, and the calls that name them."""
    country = airport.country
    if kind == "key":
        key = airport.key
        return Change(
            kind,
            "number = ?",
            (airport.number,),
            lambda cache: cache.delete(key, tenant_id=country),
            lambda: send.invalidate(keys=[key], tenant_id=country),
        )
    if kind == "pattern":
        codes = airport.icao[:2] + "*"
        return Change(
            kind,
            "country = ? AND icao GLOB ?",
            (country, codes),
            lambda cache: cache.invalidate_pattern(f"airport:{codes}", tenant_id=country),
            lambda: send.invalidate_pattern(f"airport:{codes}", tenant_id=country),
        )
    if kind == "tag":
        return Change(
            kind,
            "country = ?",
            (country,),
            lambda cache: cache.invalidate_tags([_TAG], tenant_id=country),
            lambda: send.invalidate_tags([_TAG], tenant_id=country),
        )
    return Change(
        kind,
        "country = ?",
        (country,),
        lambda cache: cache.invalidate_tenant(country),
        lambda: send.invalidate_tenant(country),
    )


if __name__ == "__main__":
    main()
