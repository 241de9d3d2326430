"""The server frozen for half a minute under load: no request fails, none waits for it, the origin keeps its peace."""

import os
import signal
import threading
import time
from typing import Any

import pytest

from stoker.cache import Cache, CacheConfig, InvalidationNotAcknowledged
from stoker.worker.embedded import embedded_server
from tests.cache.conftest import How
from tests.waiting import wait_until

FROZEN_S = 30.0
LOAD_S = 0.02
MOST_LOADS = 6
KEYS = 4
READERS = 8


class Truth:
    """A version a key, an origin that reads it, and what readers of it went through."""

    def __init__(self) -> None:
        self.versions = [0] * KEYS
        self.acknowledged = [0] * KEYS
        self.lock = threading.Lock()
        self.now = self.most = 0
        self.stale: list[str] = []
        self.failed: list[BaseException] = []
        self.took: list[tuple[float, float]] = []
        self.loads: list[float] = []
        self.over = threading.Event()

    def load(self, key: int) -> int:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            version, began = self.versions[key], time.monotonic()
            time.sleep(LOAD_S)
            self.loads.append(time.monotonic() - began)  # on a busy machine longer than it was to be
            return version
        finally:
            with self.lock:
                self.now -= 1

    def read(self, cache: Cache, key: int) -> None:
        while not self.over.is_set():
            key = (key + 1) % KEYS
            least, began = self.acknowledged[key], time.monotonic()
            try:
                got = cache.get_or_load(f"k{key}", lambda key=key: self.load(key), ttl=60)  # type: ignore[misc]
            except BaseException as error:
                self.failed.append(error)
            else:
                self.took.append((began, time.monotonic() - began))
                if got < least:
                    self.stale.append(f"k{key}: {got} < {least}")
            time.sleep(0.005)

    def change(self, cache: Cache, key: int) -> bool:
        self.versions[key] += 1
        version = self.versions[key]
        try:
            cache.delete(f"k{key}")
        except InvalidationNotAcknowledged:
            return False
        self.acknowledged[key] = version
        return True


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("how", ["called", "awaited"], indirect=True)
def test_half_a_minute_without_the_server(how: How) -> None:
    truth = Truth()
    with embedded_server("cache") as server:
        cache = how(
            CacheConfig(
                backend="redis", redis_url=server.url, timeout=0.5, max_loads=MOST_LOADS, early_refresh=0
            )
        )
        for key in range(KEYS):
            assert truth.change(cache, key)
        readers = [threading.Thread(target=truth.read, args=(cache, n)) for n in range(READERS)]
        for reader in readers:
            reader.start()
        try:
            acknowledged = freeze(truth, cache, server.child.pid)
        finally:
            truth.over.set()
            for reader in readers:
                reader.join(30)
    assert truth.failed == []
    assert truth.stale == []
    assert truth.most <= MOST_LOADS
    assert acknowledged == 0, "no invalidation is acknowledged by a server that is frozen"


def freeze(truth: Truth, cache: Cache, pid: int) -> int:
    """Freeze the server, change things meanwhile, thaw it. Returns how many changes it acknowledged."""
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        wait_until(lambda: truth.change(cache, 0) or is_open(cache))
        opened = time.monotonic()
        acknowledged = 0
        while time.monotonic() < began + FROZEN_S:
            acknowledged += sum(truth.change(cache, key) for key in range(KEYS))
            time.sleep(0.1)
        thawed = time.monotonic()
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: truth.change(cache, 0))
    for _ in range(20):
        for key in range(KEYS):
            assert truth.change(cache, key)
        time.sleep(0.05)
    took = [seconds for at, seconds in truth.took if opened < at < thawed]
    assert len(took) > 1000
    p99 = most_of(took)
    print(f"{len(took)} reads without the server, p99 {p99 * 1000:.1f} ms, most loads at once {truth.most}")  # noqa: T201
    assert p99 <= most_of(truth.loads) + 0.05
    return acknowledged


def most_of(seconds: list[float]) -> float:
    """What 99 of 100 do not exceed."""
    return sorted(seconds)[int(len(seconds) * 0.99)]


def is_open(cache: Any) -> bool:
    transport = (
        next(iter(cache.aio._by_loop.values())).transport if hasattr(cache, "aio") else cache._transport
    )
    return bool(transport._breaker.open)
