"""One load per key, across threads and processes; whose value is passed on; what a killed loader costs."""

import signal
import subprocess
import sys
import threading
import time

import pytest

from stoker.cache import Cache
from tests.cache.conftest import MakeCache
from tests.waiting import wait_until

LOADER_PROCESS = """
import sys, time
from stoker.cache import Cache, CacheConfig
url, namespace, lease, seconds = sys.argv[1:]
cache = Cache(CacheConfig(backend="redis", redis_url=url, namespace=namespace, lease=float(lease), max_load=10))
def load():
    print("loading", flush=True)
    time.sleep(float(seconds))
    return "theirs"
print(cache.get_or_load("k", load), flush=True)
"""


def in_another_process(url: str, namespace: str, lease: float, seconds: float) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", LOADER_PROCESS, url, namespace, str(lease), str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "loading\n"
    return process


def test_threads_that_miss_together_load_once(cache: Cache) -> None:
    calls: list[int] = []
    together = threading.Barrier(16)
    results = []

    def load() -> str:
        calls.append(1)
        wait_until(lambda: cache.stats().misses == 16)
        return "value"

    def read() -> None:
        together.wait()
        results.append(cache.get_or_load("k", load))

    threads = [threading.Thread(target=read) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["value"] * 16
    assert len(calls) == 1


def test_processes_that_miss_together_load_once(
    make_redis: MakeCache, cache_server: str, namespace: str
) -> None:
    other = in_another_process(cache_server, namespace, 5, 0.5)
    cache = make_redis(lease=5, max_load=10)
    assert cache.get_or_load("k", lambda: "mine") == "theirs"
    other.communicate(timeout=60)


def test_a_live_loader_keeps_its_lease_for_longer_than_it_lasts(
    make_redis: MakeCache, cache_server: str, namespace: str
) -> None:
    other = in_another_process(cache_server, namespace, 1.5, 2.5)
    cache = make_redis(lease=1.5, max_load=10)
    assert cache.get_or_load("k", lambda: "mine") == "theirs"
    other.communicate(timeout=60)


def test_a_killed_loader_blocks_nobody_longer_than_its_lease(
    make_redis: MakeCache, cache_server: str, namespace: str
) -> None:
    other = in_another_process(cache_server, namespace, 0.5, 60)
    other.send_signal(signal.SIGKILL)
    other.communicate(timeout=60)
    cache = make_redis(lease=0.5, max_load=10)
    began = time.monotonic()
    assert cache.get_or_load("k", lambda: "mine") == "mine"
    assert time.monotonic() - began < 2
    assert cache.get("k") == "mine"


def test_who_has_waited_for_the_longest_load_loads_without_storing(
    make_redis: MakeCache, cache_server: str, namespace: str
) -> None:
    cache = make_redis(lease=5, max_load=10)
    cache.ping()
    other = in_another_process(cache_server, namespace, 5, 60)
    cache._core._loading._config = make_redis(
        lease=0.3, max_load=0.4
    ).config  # impatient, on the same namespace
    assert cache.get_or_load("k", lambda: "mine") == "mine"
    assert cache.get("k") is None
    other.kill()
    other.communicate(timeout=60)


def test_a_loader_may_ask_for_its_own_key(cache: Cache) -> None:
    depth: list[int] = []

    def load() -> int:
        depth.append(1)
        return len(depth) if len(depth) > 1 else cache.get_or_load("k", load) + 10

    assert cache.get_or_load("k", load) == 12


def test_a_failing_leader_fails_only_itself(cache: Cache) -> None:
    leading, go_on = threading.Event(), threading.Event()
    outcome: list[object] = []

    def fail() -> None:
        leading.set()
        go_on.wait(10)
        raise RuntimeError("mine alone")

    def lead() -> None:
        with pytest.raises(RuntimeError):
            cache.get_or_load("k", fail)

    leader = threading.Thread(target=lead)
    leader.start()
    leading.wait(10)
    follower = threading.Thread(target=lambda: outcome.append(cache.get_or_load("k", lambda: "value")))
    follower.start()
    go_on.set()
    leader.join()
    follower.join()
    assert outcome == ["value"]


def test_who_joins_after_an_invalidation_does_not_take_the_old_value(cache: Cache) -> None:
    """Rule 9: the leader's load began before the invalidation that this caller has seen acknowledged."""
    loading, go_on = threading.Event(), threading.Event()
    outcome: list[object] = []

    def old() -> str:
        loading.set()
        go_on.wait(10)
        return "old"

    leader = threading.Thread(target=lambda: outcome.append(cache.get_or_load("k", old)))
    leader.start()
    loading.wait(10)
    cache.delete("k")
    follower = threading.Thread(target=lambda: outcome.append(cache.get_or_load("k", lambda: "new")))
    follower.start()
    wait_until(lambda: cache.stats().misses == 2)
    go_on.set()
    leader.join()
    follower.join()
    assert sorted(map(str, outcome)) == ["new", "old"]
    assert cache.get("k") == "new"


def test_followers_of_a_load_that_was_not_stored_share_the_next_one(cache: Cache) -> None:
    """Under a token nothing is stored; still, callers that wait together cause two loads, not one each."""
    cache.snapshot("k", hold=30)
    calls: list[int] = []
    together = threading.Barrier(12)

    def load() -> str:
        calls.append(1)
        time.sleep(0.1)
        return "value"

    def read() -> None:
        together.wait()
        assert cache.get_or_load("k", load) == "value"

    threads = [threading.Thread(target=read) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) <= 3
