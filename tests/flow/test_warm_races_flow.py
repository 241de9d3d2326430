"""Warming against invalidations: fifty thousand keys, five hundred invalidations, and workers that are killed."""

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from stoker.cache import Cache
from stoker.config import open_cache
from stoker.tasks import JobHandle, JobStatus, send
from tests.flow import raced
from tests.flow.conftest import Deployment
from tests.flow.raced import GROUPS, NUMBERS, SIZE, TENANTS
from tests.waiting import wait_until

INVALIDATIONS = 500
BY_TASK = 0.3
READERS = 2
PAUSE_US = 40_000
PAGE = 50
NEAR = 600
"""Keys before and behind the warm's place that count as being loaded just now."""
ENVIRONMENT = {"STOKER_JOB__BATCH": "200", "STOKER_LEASE": "4", "STOKER_JOB__LOCK_TTL": "3"}


class Change(NamedTuple):
    """What changes for a tenant, and how the cache is told of it."""

    tenant: str
    places: Sequence[int]
    direct: Callable[[Cache], object]
    by_task: Callable[[], JobHandle]


class Race:
    """Who changes the source, invalidates and reads while a job warms. `findings` are reads of what was no more."""

    def __init__(self, deployment: Deployment, seed: int) -> None:
        self.versions = raced.versions()
        self.findings: list[str] = []
        self.made = 0
        self._deployment = deployment
        self._seed = seed
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._done = 0
        self._errors: list[BaseException] = []

    def note(self, status: JobStatus) -> None:
        """Take over how far the job is."""
        self._done = status.done

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Readers and one writer a tenant, until the block ends; then the writers make up what is left of theirs."""
        writers = [threading.Thread(target=self._run, args=(self._write, n)) for n in range(len(TENANTS))]
        readers = [threading.Thread(target=self._run, args=(self._read, 100 + n)) for n in range(READERS)]
        for thread in (*writers, *readers):
            thread.start()
        try:
            yield
            self._done = SIZE
            for thread in writers:
                thread.join()
        finally:
            self._over.set()
            for thread in (*writers, *readers):
                thread.join()
        if self._errors:
            raise self._errors[0]

    def look(self, cache: Cache, tenant: int, places: Sequence[int]) -> dict[int, int]:
        """Read some keys of a tenant, and judge what came; returns what is there by place."""
        least = [self.versions.acknowledged(place) for place in places]
        found = cache.get_many([_key(place) for place in places], TENANTS[tenant])
        there = {}
        for place, version in zip(places, least, strict=True):
            value = found.get(_key(place))
            if value is None:
                continue
            there[place] = value
            if value < version:
                self.findings.append(
                    f"{TENANTS[tenant]} {_key(place)}: {value}, and {version} was acknowledged"
                )
        return there

    def _run(self, work: Callable[[Cache, random.Random, int], None], number: int) -> None:
        try:
            with open_cache(self._deployment.settings) as cache:
                work(cache, random.Random(f"{self._seed} {number}"), number)
        except BaseException as error:
            self._errors.append(error)

    def _write(self, cache: Cache, chance: random.Random, tenant: int) -> None:
        for turn in range(INVALIDATIONS // len(TENANTS)):
            due = 0.95 * SIZE * turn * len(TENANTS) / INVALIDATIONS
            wait_until(lambda due=due: self._done >= due or self._over.is_set(), 120)  # type: ignore[misc]
            change = _change(chance, tenant, self._near(chance))
            versions = self.versions.raise_(change.places)
            if chance.random() < BY_TASK:
                change.by_task().wait(timeout=60)
            else:
                change.direct(cache)
            self.versions.acknowledge(versions)
            self.look(cache, tenant, chance.sample(change.places, min(PAGE, len(change.places))))
            with self._lock:
                self.made += 1

    def _read(self, cache: Cache, chance: random.Random, _number: int) -> None:
        while not self._over.is_set():
            tenant, first = chance.randrange(len(TENANTS)), self._near(chance)
            self.look(cache, tenant, [place for place in _of(tenant) if first <= place < first + 5 * PAGE])

    def _near(self, chance: random.Random) -> int:
        """A place, half of the time one whose key is being loaded just now or was lately."""
        if chance.random() < 0.5:
            return chance.randrange(SIZE)
        return min(max(self._done + chance.randrange(-NEAR, NEAR), 0), SIZE - 1)


def _of(tenant: int) -> range:
    return range(tenant, SIZE, len(TENANTS))


def _key(place: int) -> str:
    group, number = divmod(place // len(TENANTS), NUMBERS)
    return raced.key(group, number)


def _change(chance: random.Random, tenant: int, near: int) -> Change:
    """One key, a tag, a pattern of either kind, or now and then the whole tenant."""
    name = TENANTS[tenant]
    group, number = divmod(near // len(TENANTS), NUMBERS)
    kind = chance.random()
    if kind < 0.5:
        key = raced.key(group, number)
        return Change(
            name,
            [raced.place(tenant, group, number)],
            lambda cache: cache.delete(key, name),
            lambda: send.invalidate(keys=[key], tenant_id=name),
        )
    if kind < 0.7:
        tags = [f"group {group}"]
        return Change(
            name,
            [raced.place(tenant, group, n) for n in range(NUMBERS)],
            lambda cache: cache.invalidate_tags(tags, name),
            lambda: send.invalidate_tags(tags, name),
        )
    if kind < 0.97:
        narrow = chance.random() < 0.5
        pattern = raced.key(group, 0)[:-1] + "*" if narrow else f"raced:*:{number}"
        places = [raced.place(tenant, group, n) for n in range(NUMBERS)]
        across = [raced.place(tenant, g, number) for g in range(GROUPS)]
        return Change(
            name,
            places if narrow else across,
            lambda cache: cache.invalidate_pattern(pattern, name),
            lambda: send.invalidate_pattern(pattern, name),
        )
    return Change(
        name,
        _of(tenant),
        lambda cache: cache.invalidate_tenant(name),
        lambda: send.invalidate_tenant(name),
    )


@pytest.fixture
def seed(environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Also where the versions are kept, for this process and the workers."""
    path = str(tmp_path / "versions")
    environment[raced.FILE] = path
    monkeypatch.setenv(raced.FILE, path)
    raced.versions.cache_clear()
    seed = random.randrange(10**9)
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails
    yield seed
    raced.versions.cache_clear()


def race(deployment: Deployment, seed: int, loaders: str) -> tuple[Race, JobStatus]:
    """Three workers, of which two are killed, warm all keys while they are invalidated."""
    race = Race(deployment, seed)
    race.versions.pause_us = PAUSE_US
    # What the broker hands to a process that was just killed is lost; the reaper sends it again
    deployment.start("beat", "beat", ready="Starting", **ENVIRONMENT, STOKER_BEAT__REAP_EVERY="1")
    workers = [deployment.worker(name, 2, **ENVIRONMENT, STOKER_LOADERS=loaders) for name in "abc"]
    job = send.warm_plan("raced")
    kills = {SIZE * 0.3: workers[0], SIZE * 0.6: workers[1]}
    with race.going_on():

        def ended() -> JobStatus | None:
            status = job.status()
            race.note(status)
            for at in [at for at in kills if status.done >= at]:
                deployment.kill(kills.pop(at))
            return status if status.final else None

        status = wait_until(ended, 240, lambda: str(job.status()))
    assert kills == {}
    assert race.made == INVALIDATIONS
    return race, status


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_nothing_stale_comes_of_invalidations_and_kills_while_fifty_thousand_keys_are_warmed(
    deployment: Deployment, other_cache: Cache, seed: int
) -> None:
    run, status = race(deployment, seed, "tests.flow.raced")
    # Then no read, during it or now, shows what was no more
    there = {p: v for t in range(len(TENANTS)) for p, v in run.look(other_cache, t, _of(t)).items()}
    assert run.findings == []
    assert all(version == run.versions.now(place) for place, version in there.items())
    # And what is not there was invalidated, or the report says why
    report = status.report
    assert (status.state, report["stopped"]) == ("succeeded", "")
    outcomes = ("written", "fresh", "busy", "refused", "missing", "failed")
    assert sum(report[name] for name in outcomes) == report["asked"] == SIZE, report
    absent = [place for place in range(SIZE) if place not in there]
    unexplained = sum(run.versions.now(place) == 0 for place in absent)
    assert unexplained <= sum(report[name] for name in ("busy", "missing", "failed")), report
    # And the next run brings back the rest
    run.versions.pause_us = 0
    report = send.warm_plan("raced").wait(timeout=60).report
    assert report["written"] + report["fresh"] == SIZE, report
    for tenant in range(len(TENANTS)):
        there = run.look(other_cache, tenant, _of(tenant))
        assert len(there) == SIZE // len(TENANTS)
    assert run.findings == []


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_same_with_plain_stores_in_the_place_of_leased_fills_serves_stale_values(
    deployment: Deployment, other_cache: Cache, seed: int
) -> None:
    run, _ = race(deployment, seed, "tests.flow.raced,tests.flow.plain_stores")
    for tenant in range(len(TENANTS)):
        run.look(other_cache, tenant, _of(tenant))
    assert run.findings
