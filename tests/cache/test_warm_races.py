"""Warming keys that are invalidated at random under their load, by every kind of invalidation."""

import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from stoker.cache import Cache, CacheConfig, LoadKey
from stoker.cache.loaders import Loader, Registry
from tests.cache.conftest import MakeCache
from tests.versions import Versions

TENANT = "acme"
GROUPS, NUMBERS = 25, 20
SIZE = GROUPS * NUMBERS
MOST_UNDER_A_LOAD = 3


def key(place: int) -> str:
    return f"raced:{place // NUMBERS}:{place % NUMBERS}"


class Source:
    """Versions, and a loader under which some of them change and are invalidated: after it has read them.

    Several threads may load at once; changes are made one after the other.
    """

    def __init__(self, versions: Versions, chance: random.Random, other: Cache) -> None:
        self.versions = versions
        self.calm = False
        self.findings: list[str] = []
        self._chance = chance
        self._other = other
        self._changing = threading.Lock()

    def load(self, keys: list[LoadKey]) -> dict[str, Any]:
        asked = {k.key: int(k.args["group"]) * NUMBERS + int(k.args["number"]) for k in keys}
        found = {name: self.versions.now(place) for name, place in asked.items()}
        with self._changing:
            for _ in range(0 if self.calm else self._chance.randrange(MOST_UNDER_A_LOAD + 1)):
                self._invalidate(self._chance.choice([*asked.values(), self._chance.randrange(SIZE)]))
        return found

    def look(self, cache: Cache) -> dict[int, int]:
        """What is there by place; none of it may be older than what was acknowledged."""
        found = cache.get_many(map(key, range(SIZE)), TENANT)
        there = {place: found[key(place)] for place in range(SIZE) if key(place) in found}
        for place, version in there.items():
            if version < self.versions.acknowledged(place):
                self.findings.append(f"{key(place)}: {version} < {self.versions.acknowledged(place)}")
        return there

    def _invalidate(self, place: int) -> None:
        group, number = divmod(place, NUMBERS)
        kind = self._chance.random()
        places = [group * NUMBERS + n for n in range(NUMBERS)]
        if kind < 0.4:
            changed = self.versions.raise_([place])
            self._other.delete(key(place), TENANT)
        elif kind < 0.6:
            changed = self.versions.raise_(places)
            self._other.invalidate_tags([f"group {group}"], TENANT)
        elif kind < 0.8:
            changed = self.versions.raise_(places)
            self._other.invalidate_pattern(f"raced:{group}:*", TENANT)
        elif kind < 0.98:
            changed = self.versions.raise_([g * NUMBERS + number for g in range(GROUPS)])
            self._other.invalidate_pattern(f"raced:*:{number}", TENANT)
        else:
            changed = self.versions.raise_(range(SIZE))
            self._other.invalidate_tenant(TENANT)
        self.versions.acknowledge(changed)
        self.look(self._other)


@pytest.mark.parametrize("backend", ["memory", "redis"])
def test_nothing_stale_comes_of_a_warm_whatever_is_invalidated_under_its_loads(
    backend: str, make_redis: MakeCache, tmp_path: Path
) -> None:
    seed = time.time_ns()
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails
    registry = Registry()
    if backend == "redis":
        cache, other = make_redis(lambda config: Cache(config, registry=registry)), make_redis()
    else:
        cache = other = Cache(CacheConfig(backend="memory", max_size=2 * SIZE), registry=registry)
    source = Source(Versions(tmp_path / "versions", SIZE), random.Random(seed), other)

    def load(keys: list[LoadKey]) -> dict[str, Any]:
        return source.load(keys)

    registry.add(Loader("raced:{group}:{number}", load, many=True, ttl=60, tags=["group {group}"]))
    # Given a warm under whose loads keys are invalidated
    names = [key(place) for place in range(SIZE)]
    report = cache.warm(names, TENANT, batch=NUMBERS)
    # Then no read has shown, and none shows, what was invalidated
    there = source.look(cache)
    assert source.findings == []
    assert all(version == source.versions.now(place) for place, version in there.items())
    # And each key is told once, and what is not there was invalidated
    assert (report.asked, report.written + report.fresh + report.refused) == (SIZE, SIZE), report
    assert all(source.versions.now(place) for place in range(SIZE) if place not in there)
    # And another warm brings the rest
    source.calm = True
    report = cache.warm(names, TENANT, batch=NUMBERS)
    assert (report.fresh, report.written) == (len(there), SIZE - len(there))
    assert len(source.look(cache)) == SIZE
    assert source.findings == []
