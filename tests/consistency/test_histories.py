"""Single histories that once were, or could have been, stale: too rare for random runs, so told step by step.

Each needs what only a server of its own can do: restart, be copied, cut somebody off, or forbid a command.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from stoker.cache import Cache, CacheConfig, CacheUnavailable
from stoker.worker.processes import Processes
from stoker.worker.verify.server import Server
from tests.waiting import wait_until

MakeCache = Callable[..., Cache]


class Place:
    """An address, the servers that may have it, and caches that know only the address."""

    def __init__(self, processes: Processes, stack: ExitStack) -> None:
        self.address = processes.directory / "address"
        self._stack = stack
        self.server = Server(processes, processes.directory / "server", ["app", "other"])
        self.server.take(self.address)

    def cache(self, user: str = "app", **fields: Any) -> Cache:
        """A cache as another process would have it."""
        url = f"unix://{user}@{self.address}"
        config = CacheConfig(backend="redis", redis_url=url, lease=0.1, max_load=0.1, **fields)
        return self._stack.enter_context(Cache(config))


@pytest.fixture
def place() -> Iterator[Place]:
    with Processes() as processes, ExitStack() as stack:
        yield Place(processes, stack)


def test_a_deleted_key_does_not_come_back_with_an_old_dump(place: Place) -> None:
    cache = place.cache()
    cache.set("report", "old")
    place.server.admin.save()
    cache.delete("report")
    place.server.restart()
    wait_until(cache.ping)
    assert cache.get("report") is None
    assert place.cache().get("report") is None


def test_a_deleted_key_does_not_come_back_with_a_replica_that_has_missed_it(place: Place) -> None:
    cache = place.cache()
    cache.set("report", "old")
    cache.set("other", "value")
    replica = place.server.lagging_replica(place.address.parent / "replica")
    cache.delete("report")
    cache.invalidate_tags(["unrelated"])  # so that the two control records differ
    replica.take(place.address)  # the old primary is still there, and still connected to
    assert place.cache().get("report") is None
    place.server.crash()
    wait_until(cache.ping)
    assert cache.get("report") is None


def test_who_is_cut_off_does_not_take_a_load_that_began_before_an_invalidation(place: Place) -> None:
    truth = "old"
    loading, go_on = threading.Event(), threading.Event()

    def load() -> str:
        value = truth
        if value == "old":
            loading.set()
            go_on.wait(10)
        return value

    here, there = place.cache("app"), place.cache("other")
    there.ping()
    place.server.admin.acl_deluser("app")
    leader = threading.Thread(target=here.get_or_load, args=("report", load))
    leader.start()
    loading.wait(10)
    truth = "new"
    there.delete("report")
    answers: list[str] = []
    follower = threading.Thread(target=lambda: answers.append(here.get_or_load("report", load)))
    follower.start()
    follower.join(0.2)  # it may wait for the leader, but not take what that has
    go_on.set()
    leader.join()
    follower.join()
    assert answers == ["new"]


def _with_a_ban_to_retire(place: Place, cache: Cache) -> None:
    """Store an entry, kill it by a tag, and let a mark get old enough that the next sweep may retire the ban."""
    cache.set("report", "old", tags=["reports"])
    cache.invalidate_tags(["reports"])
    cache.get("report")
    marks = f"{{{cache.config.namespace}:0}}:marks"
    head = cache.explain("report")["head"]
    place.server.admin.zadd(marks, {str(head): 1})  # as if the ban were from long ago


def test_bans_stay_while_their_entries_cannot_be_read(place: Place) -> None:
    cache = place.cache()
    _with_a_ban_to_retire(place, cache)
    place.server.admin.execute_command("ACL", "SETUSER", "app", "-getrange")  # type: ignore[no-untyped-call]
    with pytest.raises(CacheUnavailable, match=r"(?i)getrange"):
        cache.sweep()
    assert place.cache().get("report") is None


@pytest.mark.parametrize("boot_fence", ["run_id", "off"])
def test_a_sweep_does_not_go_on_with_the_cursor_of_a_server_that_has_restarted(
    place: Place, boot_fence: str
) -> None:
    cache = place.cache(boot_fence=boot_fence)
    for n in range(50):
        cache.set(f"page:{n}", n)
    _with_a_ban_to_retire(place, cache)
    steps = cache.sweep_steps(batch=1)
    cursor = next(step.cursor for step in steps if step.cursor["walk"] and step.cursor["walk"]["scan"] != "0")
    place.server.admin.save()
    place.server.restart()  # its hash tables are in another order now
    wait_until(cache.ping)
    *_, last = cache.sweep_steps(cursor=cursor)
    assert last.report.restarts > 0 or last.report.retired == 0
    assert cache.get("report") is None
    assert place.cache(boot_fence=boot_fence).get("report") is None


def test_a_server_that_has_become_a_replica_is_not_read(place: Place) -> None:
    cache = place.cache()
    cache.set("report", "value")
    place.server.admin.replicaof("127.0.0.1", "1")
    assert place.cache().get("report") is None
    assert not place.cache().ping()
