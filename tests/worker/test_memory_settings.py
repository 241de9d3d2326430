"""Servers that memory pressure will hurt: what workers say when they start, and what they refuse."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from stoker.cache import Cache, CacheConfig, ConfigError
from stoker.config import BeatSettings, Settings
from stoker.worker.embedded import embedded_server
from stoker.worker.memory_settings import Facts, ask, check, problems

CLOSED = "redis://127.0.0.1:1/0"


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    with embedded_server("cache") as server:
        yield server.url


@pytest.fixture
def plain(server_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(server_url) as client:
        client.flushall()
        client.config_set("maxmemory", 2**28)
        client.config_set("maxmemory-policy", "volatile-lfu")
        yield client


def settings(server_url: str, broker_url: str = CLOSED, evict_every: float | None = 30) -> Settings:
    return Settings(cache_url=server_url, broker_url=broker_url, beat=BeatSettings(evict_every=evict_every))


def told(caplog: pytest.LogCaptureFixture, ours: Settings) -> str:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        check(ours)
    return caplog.text


def test_a_server_in_order_and_one_that_is_not_there_are_not_spoken_of(
    plain: Any, server_url: str, broker_server: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Cache(CacheConfig(backend="redis", redis_url=server_url)) as cache:
        cache.set_many({f"k{n}": n for n in range(100)})
    assert plain.dbsize() > 100
    assert told(caplog, settings(server_url, broker_server)) == ""
    assert told(caplog, settings(CLOSED)) == ""


def test_one_server_for_cache_and_broker_is_warned_about(
    plain: Any, server_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert plain
    text = told(caplog, settings(server_url, server_url + "1"))
    assert "cache and broker are one server" in text
    assert "evicts the records of jobs" in text


def test_one_server_that_would_evict_tasks_is_refused(plain: Any, server_url: str) -> None:
    plain.config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(ConfigError, match="evicts queued tasks and jobs with them; give the broker a server"):
        check(settings(server_url, server_url))


def test_a_server_without_a_limit_and_one_that_nobody_empties_are_warned_about(
    plain: Any, server_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    plain.config_set("maxmemory-policy", "noeviction")
    assert told(caplog, settings(server_url)) == ""  # stoker.evict makes room
    assert "nobody makes room" in told(caplog, settings(server_url, evict_every=None))
    plain.config_set("maxmemory", 0)
    assert "CONFIG SET maxmemory 1gb" in told(caplog, settings(server_url))


def test_other_data_where_the_server_may_evict_it_is_warned_about(
    plain: Any, server_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    plain.mset({f"orders:{n}": "x" for n in range(50)})
    assert told(caplog, settings(server_url)) == ""
    plain.config_set("maxmemory-policy", "allkeys-lfu")
    assert "evicts the other program's data" in told(caplog, settings(server_url))
    plain.flushall()
    with redis.Redis.from_url(server_url.removesuffix("0") + "3") as other:
        other.set("orders:1", "x")
    assert "1 other database, are" in told(caplog, settings(server_url))


def test_entries_that_never_expire_are_told_where_the_policy_leaves_them(
    plain: Any, server_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert plain
    with Cache(CacheConfig(backend="redis", redis_url=server_url, default_ttl=None)) as cache:
        cache.set_many({f"k{n}": n for n in range(50)})
    assert "are entries that never expire" in told(caplog, settings(server_url))
    assert "nobody drops them" in told(caplog, settings(server_url, evict_every=None))


def test_what_is_asked_is_only_looked_at(plain: Any, server_url: str) -> None:
    plain.set("x", 1)
    found = ask(settings(server_url))
    assert found == Facts("volatile-lfu", 2**28, 200, 200, 0, 0, with_broker=False)
    assert found is not None
    assert [problem.about for problem in problems(found, 30)] == []
    assert plain.keys() == [b"x"]
