"""What a process has counted when it ends without closing its cache."""

import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from stoker.cache import Cache, CacheConfig
from stoker.cache.traffic import Counts
from stoker.worker.embedded import embedded_server
from stoker.worker.embedded_cluster import EmbeddedCluster
from tests.cache.conftest import MakeCache
from tests.sentinels import sentinel_group
from tests.waiting import wait_until

PROGRAM = """
import os, sys
from stoker.cache import Cache, CacheConfig
cache = Cache(CacheConfig(
    backend="redis", redis_url=sys.argv[1], namespace=sys.argv[2], cluster=sys.argv[3] == "cluster", timeout=60.0,
    connect_timeout=60.0,
))
for _ in range(3):
    cache.get("user:1")
if sys.argv[3] == "forks":
    pid = os.fork()
    if pid == 0:
        cache.get("user:1", "acme")
        sys.exit()
    os.waitpid(pid, 0)
print("has read", flush=True)
sys.stdin.readline()
"""


def program(url: str, namespace: str, how: str = "") -> "subprocess.Popen[str]":
    """One that has read, and ends when it is told to, without closing its cache."""
    started = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, url, namespace, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "has read\n"
    return started


def end(started: "subprocess.Popen[str]") -> float:
    """Seconds that it took."""
    began = time.monotonic()
    _, errors = started.communicate("end\n", timeout=50)
    assert (started.returncode, errors) == (0, "")
    return time.monotonic() - began


def counted(cache: Cache) -> dict[Any, Counts]:
    found: dict[Any, Counts] = cache._run(cache._core.backend.traffic())
    return found


def test_what_it_has_counted_is_added_to_the_fleets_and_no_fork_adds_it_again(
    make_redis: MakeCache, cache_server: str, namespace: str
) -> None:
    end(program(cache_server, namespace, "forks"))
    cache, its, its_childs = make_redis(), Counts(0, 3), Counts(0, 1)
    wait_until(
        lambda: counted(cache) == {(None, "user"): its, ("acme", "user"): its_childs},
        10,
        lambda: str(counted(cache)),
    )


def test_so_it_is_on_a_cluster(make_clustered: MakeCache, cache_cluster: EmbeddedCluster) -> None:
    cache = make_clustered()
    end(program(cache_cluster.url, cache.config.namespace, "cluster"))
    wait_until(lambda: counted(cache) == {(None, "user"): Counts(0, 3)}, 10, lambda: str(counted(cache)))


@pytest.mark.slow
def test_so_it_is_behind_sentinels(namespace: str) -> None:
    with sentinel_group() as group:
        end(program(group.url, namespace))
        with Cache(CacheConfig(backend="redis", redis_url=group.url, namespace=namespace)) as cache:
            wait_until(lambda: counted(cache) == {(None, "user"): Counts(0, 3)}, 10)


@pytest.mark.parametrize("happens", [signal.SIGSTOP, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_a_server_that_is_gone_or_stands_still_does_not_hold_it_up(
    namespace: str, happens: signal.Signals
) -> None:
    with embedded_server("cache") as server:
        started = program(server.url, namespace)
        os.kill(server.child.pid, happens)
        try:
            assert end(started) < 20  # of the minute that requests may take
        finally:
            if happens == signal.SIGSTOP:
                os.kill(server.child.pid, signal.SIGCONT)
