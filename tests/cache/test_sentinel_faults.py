"""Under load the primary that Sentinels name is killed, stands still, or has to go though it is well."""

import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Literal, Self, cast

import pytest

from stoker.cache import Cache, CacheConfig, InvalidationNotAcknowledged, sentinels
from stoker.cache.copies import ABSENT
from tests.cache.awaited import Awaited
from tests.cache.cluster_load import Load
from tests.sentinels import NAME, Group, sentinel_group
from tests.waiting import wait_until

pytestmark = pytest.mark.slow
SEED = int(os.environ.get("STOKER_TEST_SEED", "1"))


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Sentinel that is slow on a busy machine is no Sentinel that does not answer."""
    monkeypatch.setattr(sentinels, "_ASK_WITHIN_S", 2.0)


@pytest.fixture
def group() -> Iterator[Group]:
    """Three Sentinels that replace a primary which does not answer for half a second."""
    with sentinel_group(3, down_after_s=0.5) as group:
        yield group


def fall_behind(group: Group) -> None:
    """What happens on the primary from now on its replica does not learn."""
    with group.admin(0) as admin:
        admin.execute_command("ACL SETUSER default -sync -psync -replconf")
        admin.client_kill_filter(_type="replica")


def kill(group: Group) -> None:
    """The primary dies."""
    group.kill(0)
    wait_until(lambda: group.primary() != group.servers[0].port, 30)


def stand_still(group: Group) -> None:
    """It does nothing until another one is the primary, and then goes on as if it still were."""
    pid = group.servers[0].child.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: group.primary() != group.servers[0].port, 30)
    finally:
        os.kill(pid, signal.SIGCONT)


def by_hand(group: Group) -> None:
    """It is well, and does not know for ten seconds that another one is the primary."""
    group.fail_over()


Fault = Callable[[Group], None]


def under(fault: Fault, group: Group) -> Load:
    """Strike under load, of caches that are called and awaited in turn; returns what it saw when all was well again."""
    config = CacheConfig(backend="redis", redis_url=group.url, timeout=0.5)
    load, numbers = Load(SEED), itertools.count()
    with ExitStack() as ends:

        def make() -> Cache:
            if next(numbers) % 2:
                return Cache(config)
            awaiting = Awaited(config)
            ends.callback(awaiting.end)
            return cast("Cache", awaiting)

        with load.on(make, readers=4):
            wait_until(lambda: load.count["acks"] > 200)
            fault(group)
            began, acks = time.monotonic(), load.count["acks"]
            wait_until(lambda: load.count["acks"] > acks + 200, 40)
            seconds = time.monotonic() - began
    sys.stdout.write(f"{seconds:.1f} s; {len(load.stale)} stale; {dict(load.count)}\n")
    return load


@pytest.mark.soak
def test_the_primary_is_killed_and_its_lagging_replica_takes_over(group: Group) -> None:
    fall_behind(group)
    assert under(kill, group).stale == []


@pytest.mark.parametrize("fault", [stand_still, by_hand])
def test_the_old_primary_goes_on_and_nothing_stale_is_served(group: Group, fault: Fault) -> None:
    assert under(fault, group).stale == []


@pytest.mark.parametrize(
    ("without", "stale"),
    [({}, False), ({"SETTLED_S": 0.0}, True), ({"EVERY_S": 60.0, "LATE_S": 60.0}, True)],
    ids=["both bounds", "not settled", "never asked again"],
)
def test_each_of_the_two_bounds_is_needed(
    group: Group, monkeypatch: pytest.MonkeyPatch, without: dict[str, float], stale: bool
) -> None:
    """Readers at the old primary, while somebody who comes later deletes the key at the new one."""
    for name, seconds in without.items():
        monkeypatch.setattr(sentinels, name, seconds)
    config = CacheConfig(backend="redis", redis_url=group.url)
    deleted, over, seen = threading.Event(), threading.Event(), list[Any]()

    def read() -> None:
        with Cache(config) as cache:
            while not over.is_set():
                known = deleted.is_set()
                if cache.get("k") is not None and known:
                    seen.append(known)

    with Cache(config) as cache:
        cache.set("k", "old")
    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    with group.sentinel() as client:
        client.execute_command("SENTINEL", "FAILOVER", NAME)
    wait_until(lambda: group.primary() != group.servers[0].port, 30)
    wait_until(lambda: comes_and_deletes(config))
    deleted.set()
    time.sleep(1)  # of reading
    over.set()
    for reader in readers:
        reader.join()
    assert bool(seen) is stale


def comes_and_deletes(config: CacheConfig) -> bool:
    with Cache(config) as cache:
        return acknowledged(lambda: cache.delete("k", barrier=bool(config.near_size)))


def acknowledged(change: Callable[[], object]) -> bool:
    try:
        change()
    except InvalidationNotAcknowledged:
        return False
    return True


@pytest.mark.parametrize("follows", [True, False])
def test_copies_of_the_old_primary_end_with_its_time(
    group: Group, monkeypatch: pytest.MonkeyPatch, follows: bool
) -> None:
    """Its channel goes on and vouches for copies, while the key is deleted, with a barrier, at the new one."""
    if not follows:
        monkeypatch.setattr(sentinels.Following, "check", lambda *_: None)
    config = CacheConfig(backend="redis", redis_url=group.url, near_size=100)
    with Cache(config) as cache:
        cache.set("k", "old")
        wait_until(lambda: cache.get("k") == "old" and cache.explain("k")["near"] == "served")
        with Copies(cache) as copies:
            group.fail_over()
            wait_until(lambda: comes_and_deletes(config))
            stale = copies.get("k")
        assert (stale is not None) is not follows
        if follows:
            wait_until(lambda: acknowledged(lambda: cache.set("k", "new")))
            wait_until(lambda: cache.get("k") == "new" and cache.explain("k")["near"] == "served")


class Copies:
    """What a cache serves of copies, looked at all the time, as by a busy process."""

    def __init__(self, cache: Cache) -> None:
        near = cache._core.near
        assert near is not None
        self._near = near
        self._over = threading.Event()
        self._reader = threading.Thread(target=self._read)

    def get(self, key: str) -> object:
        """The copy's value, or None."""
        value = self._near.get(key, None, None)
        return None if value is ABSENT else value

    def _read(self) -> None:
        while not self._over.wait(0.005):
            self.get("k")

    def __enter__(self) -> Self:
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._reader.join()


@pytest.mark.parametrize(("fence", "served"), [("run_id", None), ("off", "old")])
def test_what_a_lagging_replica_has_is_not_served_for_the_boot_fence(
    group: Group, fence: Literal["run_id", "off"], served: str | None
) -> None:
    config = CacheConfig(backend="redis", redis_url=group.url, boot_fence=fence)
    with Cache(config) as cache:
        cache.set("k", "old")
        with group.admin(0) as admin:
            admin.execute_command("WAIT", 1, 5000)
        fall_behind(group)
        assert cache.delete("k") is True
    kill(group)
    with Cache(config) as fresh:
        wait_until(fresh.ping)
        assert fresh.get("k") == served
