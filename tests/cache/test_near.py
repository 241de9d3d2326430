"""Copies in the process: whose they are, how long they are served, and what becomes of them when anything breaks."""

import asyncio
import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import hiredis
import pytest

from stoker.cache import AsyncCache, Cache, CacheConfig, CacheMonitor, ConfigError, PlacementMismatch, near
from stoker.cache.codec import Codec
from stoker.cache.copies import ABSENT
from stoker.cache.loaders import Loader, Registry
from stoker.cache.near import Near
from stoker.cache.near_channel import Conversation
from stoker.cache.stats import Counters
from stoker.worker.embedded import embedded_server
from tests.cache.conftest import MakeCache
from tests.cache.proxy import SlowProxy
from tests.waiting import wait_until

BOUND_S = 0.1


def copied(cache: Cache, *keys: str, tenant_id: str | None = None) -> None:
    """Read until there are copies."""

    deadline = time.monotonic() + 5
    while not all(state(cache, key, tenant_id) == "served" for key in keys):
        assert time.monotonic() < deadline, cache.stats()
        for key in keys:
            cache.get(key, tenant_id)


def state(cache: Cache, key: str, tenant_id: str | None = None) -> str:
    assert cache._core.near is not None
    return cache._core.near.state_of((tenant_id, key))


@pytest.fixture
def reader(make_redis: MakeCache) -> Cache:
    """One that keeps copies."""
    return make_redis(near_size=100)


@pytest.fixture
def writer(make_redis: MakeCache) -> Cache:
    """Another process, as it were."""
    return make_redis()


CHANGES: list[Callable[[Cache], object]] = [
    lambda cache: cache.set("k", "new", "acme"),
    lambda cache: cache.set_many({"k": "new"}, "acme"),
    lambda cache: cache.delete("k", "acme"),
    lambda cache: cache.invalidate_pattern("k*", "acme"),
    lambda cache: cache.invalidate_tags(["t"], "acme"),
    lambda cache: cache.invalidate_tenant("acme"),
]


@pytest.mark.parametrize("change", CHANGES)
def test_what_one_changes_himself_he_reads_at_once(reader: Cache, change: Callable[[Cache], object]) -> None:
    for _ in range(5):
        reader.set("k", "old", "acme", tags=["t"])
        copied(reader, "k", tenant_id="acme")
        change(reader)
        assert reader.get("k", "acme") in (None, "new")


@pytest.mark.parametrize("change", CHANGES)
def test_what_another_changes_is_read_before_the_bound_has_passed(
    reader: Cache, writer: Cache, change: Callable[[Cache], object]
) -> None:
    writer.set("k", "old", "acme", tags=["t"])
    copied(reader, "k", tenant_id="acme")
    change(writer)
    acknowledged = time.monotonic()
    wait_until(lambda: reader.get("k", "acme") != "old", 5)
    assert time.monotonic() - acknowledged < BOUND_S + 0.05


@pytest.mark.parametrize("change", [*CHANGES[:1], *CHANGES[3:4]])
def test_a_barrier_lasts_as_long_as_any_copy(
    make_redis: MakeCache, cache_server: str, writer: Cache, change: Callable[[Cache], object]
) -> None:
    with SlowProxy(cache_server) as proxy:
        reader = make_redis(redis_url=proxy.url, near_size=100)
        writer.set("k", "old", "acme", tags=["t"])
        copied(reader, "k", tenant_id="acme")
        proxy.delay_s = 0.25  # what has changed is told much too late
        began = time.monotonic()
        with_barrier(change)(writer)
        assert time.monotonic() - began >= BOUND_S
        assert reader.get("k", "acme") in (None, "new")
        proxy.delay_s = 0.0


def with_barrier(change: Callable[[Cache], object]) -> Callable[[Cache], object]:
    """The same change, with the option."""

    class Barred:
        def __init__(self, cache: Cache) -> None:
            self._cache = cache

        def __getattr__(self, name: str) -> Any:
            method = getattr(self._cache, name)
            return lambda *args, **options: method(*args, **options, barrier=True)

    return lambda cache: change(Barred(cache))  # type: ignore[arg-type]


def test_a_memory_cache_has_nobody_to_wait_for() -> None:
    cache = Cache()
    began = time.monotonic()
    cache.set("k", 1, barrier=True)
    assert cache.delete("k", barrier=True)
    assert time.monotonic() - began < BOUND_S


def test_nothing_is_copied_that_is_read_once(reader: Cache, writer: Cache) -> None:
    writer.set_many({f"k{n}": n for n in range(50)})
    copied(reader, "k0")
    for n in range(1, 50):
        assert reader.get(f"k{n}") == n
    copied(reader, "k1")
    assert reader.stats().near_entries == 2


def test_a_caller_may_do_what_he_likes_with_a_value(reader: Cache) -> None:
    reader.set("k", {"list": [1]})
    copied(reader, "k")
    hits = reader.stats().near_hits
    reader.get("k")["list"].append(2)
    assert reader.get("k") == {"list": [1]}
    assert reader.get_or_load("k", dict) == {"list": [1]}
    assert reader.get("k", type=dict[str, list[int]]) == {"list": [1]}
    assert reader.get("k", default="else", type=list[int]) == "else"
    assert reader.stats().near_hits == hits + 4


def test_copies_are_bounded_by_entries_and_those_that_are_read_stay(make_redis: MakeCache) -> None:
    reader = make_redis(near_size=4)
    reader.set_many({f"k{n}": "x" for n in range(12)})
    copied(reader, "k0")
    for n in range(1, 12):
        copied(reader, "k0", f"k{n}")
    assert reader.stats().near_entries == 4


def test_copies_are_bounded_by_bytes_and_what_is_too_large_is_not_asked_for(make_redis: MakeCache) -> None:
    reader = make_redis(near_size=100, near_bytes=50_000, compress_above=None)
    reader.set_many({f"k{n}": b"x" * 10_000 for n in range(8)})
    reader.set("large", b"x" * 60_000)
    for n in range(8):
        copied(reader, f"k{n}")
    stats = reader.stats()
    assert 0 < stats.near_bytes <= 50_000
    assert stats.near_entries == 2
    for _ in range(10):
        reader.get("large")
    assert state(reader, "large") == "absent"


def test_the_estimate_of_bytes_is_not_below_what_copies_take(make_redis: MakeCache) -> None:
    import tracemalloc

    reader = make_redis(near_size=3000)
    values = {f"key:{n}": {"name": f"name {n}", "n": [n] * 10} for n in range(500)}
    reader.set_many(values)
    reader.get_many(values)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    wait_until(lambda: reader.get_many(values) and reader.stats().near_entries == 500, 5)
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert taken <= reader.stats().near_bytes <= 2.5 * taken


def test_a_loader_says_whether_its_values_are_copied(make_redis: MakeCache) -> None:
    registry = Registry()
    registry.add(Loader("plain:{n}", lambda n: n))
    registry.add(Loader("never:{n}", lambda n: n, near=False))
    registry.add(Loader("marked:{n}", lambda n: n, near=True))
    for near_all, kept in ((True, {"plain:1", "marked:1", "none"}), (False, {"marked:1"})):
        config = make_redis(near_size=100, near_all=near_all).config
        with Cache(config, registry=registry) as cache:
            cache.set("none", 1)
            for key in ("plain:1", "never:1", "marked:1"):
                cache.get_or_load(key)
            copied(cache, *kept)
            assert {
                key for key in ("plain:1", "never:1", "marked:1", "none") if state(cache, key) != "absent"
            } == kept


def test_past_its_soft_expiry_a_value_goes_the_long_way(reader: Cache) -> None:
    reader.set("k", "old", soft_ttl=0.3)
    copied(reader, "k")
    wait_until(lambda: state(reader, "k") != "served", 5)
    wait_until(lambda: reader.get_or_load("k", lambda: "new") == "new", 5)
    assert reader.stats().refreshes == 1


def test_a_copy_ends_with_its_entry(reader: Cache, writer: Cache) -> None:
    writer.set("k", 1, ttl=0.3)
    copied(reader, "k")
    began = time.monotonic()
    wait_until(lambda: reader.get("k") is None, 5)
    assert time.monotonic() - began < 0.4


def test_a_copy_that_may_have_outlived_the_bans_against_it_is_not_served(
    make_redis: MakeCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server drops what it likes and then a sweep finds nothing to unlink: nothing tells of the copy."""
    reader, writer = make_redis(near_size=10, max_load=0.1, lease=0.1), make_redis(max_load=0.1, lease=0.1)
    monkeypatch.setattr(Near, "changed", only_control(Near.changed))
    for guarded in (True, False):
        if not guarded:
            monkeypatch.setattr(Near, "outlived", lambda *_: True)
        writer.set("k", "old")
        copied(reader, "k")
        writer.invalidate_pattern("k*")
        writer._client.delete(writer._namespaced_key("k"))
        retire(writer)
        writer.set("other", 1)
        wait_until(lambda: reader.get("other") and state(reader, "other") == "served", 5)
        assert reader.get("k") == (None if guarded else "old")
        reader._core.near.forget([(None, "k")])  # type: ignore[union-attr]


def only_control(changed: Callable[..., None]) -> Callable[..., None]:
    return lambda self, names: changed(self, [name for name in names if name.endswith(b":ctl")])


def retire(cache: Cache) -> None:
    """Sweep until no ban is left."""
    wait_until(lambda: cache.sweep().complete and cache.explain("none")["bans"] == 0, 10)


# -- when something breaks -------------------------------------------------------------------------------------------


def channels(client: Any) -> list[dict[str, str]]:
    """Connections to the server that track."""
    return [one for one in client.client_list() if "t" in one["flags"]]


def test_a_killed_channel_takes_its_copies_along_and_comes_back(
    reader: Cache, writer: Cache, client: Any
) -> None:
    writer.set("k", 1)
    copied(reader, "k")
    flushes = reader.stats().near_flushes
    for one in channels(client):
        client.client_kill(one["addr"])
    wait_until(lambda: reader.stats().near_flushes > flushes, 5)
    writer.set("k", 2)
    assert reader.get("k") == 2
    copied(reader, "k")


def test_a_channel_that_no_longer_tracks_is_given_up_within_the_bound(
    reader: Cache, writer: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.set("k", 1)
    copied(reader, "k")
    flushes = reader.stats().near_flushes
    questions, asked = Near.questions, threading.Event()

    def stop_tracking(self: Near) -> bytes:
        found = questions(self)
        if self is reader._core.near and not asked.is_set():
            asked.set()
            self._sent.append(lambda _: None)
            found += near._pack(("CLIENT", "TRACKING", "OFF"))
        return found

    monkeypatch.setattr(Near, "questions", stop_tracking)
    assert asked.wait(5)
    writer.set("k", 2, barrier=True)
    assert reader.get("k") == 2
    wait_until(lambda: reader.stats().near_flushes > flushes, 5)
    copied(reader, "k")


def test_a_stopped_server_ends_copies_at_the_bound(namespace: str) -> None:
    with embedded_server("cache") as server:
        config = CacheConfig(
            backend="redis",
            redis_url=server.url,
            namespace=namespace,
            near_size=10,
            timeout=0.3,
            breaker_failures=1,
        )
        with Cache(config) as cache:
            cache.set("k", 1)
            copied(cache, "k")
            pid = cache._client.info("server")["process_id"]
            os.kill(pid, signal.SIGSTOP)
            try:
                stopped = time.monotonic()
                wait_until(lambda: state(cache, "k") != "served", 5)
                assert time.monotonic() - stopped < BOUND_S + 0.05
                assert cache.get("k") is None
            finally:
                os.kill(pid, signal.SIGCONT)
            wait_until(lambda: cache.ping(), 5)
            copied(cache, "k")


STOPPED = """
import sys, time
from stoker.cache import Cache, CacheConfig
cache = Cache(CacheConfig(backend="redis", redis_url=sys.argv[1], namespace=sys.argv[2], near_size=10))
while cache.explain("k")["near"] != "served":
    cache.get("k")
cache.get("k")
print("copied", flush=True)
while True:
    value = cache.get("k")
    if value != "old":
        print(value, cache.stats().near_hits > 0, flush=True)
        break
    if sys.stdin.readline() != "go on\\n":
        break
"""


def test_a_process_that_was_stopped_serves_nothing_old_when_it_goes_on(
    writer: Cache, cache_server: str, namespace: str
) -> None:
    writer.set("k", "old")
    command = [sys.executable, "-c", STOPPED, cache_server, namespace]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "copied\n"
        os.kill(process.pid, signal.SIGSTOP)
        writer.set("k", "new", barrier=True)
        process.stdin.write("go on\n")
        process.stdin.flush()
        os.kill(process.pid, signal.SIGCONT)
        assert process.stdout.readline() == "new True\n"


FORKED = """
import os, sys, time
from stoker.cache import Cache, CacheConfig
def copied():
    while cache.explain("k")["near"] != "served":
        cache.get("k")
cache = Cache(CacheConfig(backend="redis", redis_url=sys.argv[1], namespace=sys.argv[2], near_size=10))
cache.set("k", "value")
copied()
pid = os.fork()
assert cache.explain("k")["near"] == ("absent" if pid == 0 else "served")
copied()
if pid == 0:
    cache.set("k", "of the child", barrier=True)
    cache.close()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert cache.get("k") == "of the child"
copied()
cache.close()
print("well")
"""


def test_a_forked_child_begins_without_copies_on_a_channel_of_its_own(
    cache_server: str, namespace: str
) -> None:
    command = [sys.executable, "-c", FORKED, cache_server, namespace]
    run = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert run.stdout == "well\n", run.stderr


def test_while_nobody_reads_nothing_is_sent_and_the_next_read_wakes_it(reader: Cache) -> None:
    reader.set("k", 1)
    copied(reader, "k")
    assert reader._core.near is not None
    wait_until(lambda: reader._core.near.resting, 5)  # type: ignore[union-attr]
    wait_until(lambda: state(reader, "k") == "held", 5)
    reader.get("k")
    wait_until(lambda: state(reader, "k") == "served", 1)


def test_closing_ends_the_thread_and_so_does_forgetting_the_cache(make_redis: MakeCache) -> None:
    def threads() -> int:
        return sum(thread.name == "stoker-near" for thread in threading.enumerate())

    before = threads()
    cache = Cache(make_redis(near_size=10).config)
    cache.set("k", 1)
    copied(cache, "k")
    assert threads() == before + 1
    cache.close()
    assert threads() == before
    copied(cache, "k")  # it stays usable
    del cache
    gc.collect()
    wait_until(lambda: threads() == before, 5)


def test_without_the_right_to_track_it_says_so_once_and_reads_from_the_server(
    make_redis: MakeCache, client: Any, cache_server: str, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    client.execute_command("ACL", "SETUSER", namespace, "on", "nopass", "~*", "+@all", "-client|tracking")
    try:
        cache = make_redis(near_size=10, redis_url=cache_server.replace("://", f"://{namespace}:x@"))
        cache.set("k", 1)
        with caplog.at_level(logging.WARNING):
            wait_until(lambda: cache.get("k") == 1 and "no near cache" in caplog.text, 5)
        assert cache.get("k") == 1
        assert (caplog.text.count("no near cache"), cache.stats().near_hits) == (1, 0)
    finally:
        client.execute_command("ACL", "DELUSER", namespace)


def test_behind_what_hides_the_servers_id_there_are_copies_only_if_that_is_trusted(
    make_redis: MakeCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("stoker.cache.dialogue.process_of", lambda *_: b"hidden 0123456789abcdef")
    cache = make_redis(near_size=10)
    cache.set("k", 1)
    wait_until(lambda: cache.get("k") == 1 and "no near cache" in caplog.text, 5)
    assert (cache.get("k"), cache.stats().near_hits) == (1, 0)
    trusting = make_redis(near_size=10, boot_fence="off", namespace=f"{cache.config.namespace}-off")
    trusting.set("k", 2)
    copied(trusting, "k")


def test_where_no_thread_can_be_started_reads_go_on_without(
    reader: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: object) -> None:
        raise RuntimeError("can't start new thread")

    reader.set("k", 1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        assert [reader.get("k") for _ in range(5)] == [1] * 5
    copied(reader, "k")


def test_a_failure_of_its_own_is_told_and_does_not_end_it(
    reader: Cache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("stoker.cache.near_channel._REFUSED_PAUSE_S", 0.01)
    receive, failed = Conversation.receive, threading.Event()

    def fail_once(self: Conversation) -> None:
        if not failed.is_set():
            failed.set()
            raise ZeroDivisionError("of the channel")
        receive(self)

    monkeypatch.setattr(Conversation, "receive", fail_once)
    reader.set("k", 1)
    copied(reader, "k")
    assert "ZeroDivisionError: of the channel" in caplog.text


# -- settings and counts -----------------------------------------------------------------------------------------------


def test_a_memory_cache_needs_no_copies() -> None:
    with pytest.raises(ConfigError, match="near_size=10: is for the redis backend"):
        CacheConfig(near_size=10)


def test_a_bound_that_the_map_cannot_hold_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"near_bound=0\.0104: give whole milliseconds"):
        CacheConfig(near_bound=0.0104)


def test_two_bounds_in_one_namespace_are_refused(make_redis: MakeCache, writer: Cache) -> None:
    writer.set("k", 1)
    with pytest.raises(PlacementMismatch, match=r"open with near_bound_ms=100, .*use that"):
        make_redis(near_bound=0.2).set("k", 1)


def test_what_was_served_of_copies_counts_like_any_read(reader: Cache) -> None:
    reader.set("user:1", 1, "acme")
    copied(reader, "user:1", tenant_id="acme")
    for _ in range(1000):
        reader.get("user:1", "acme")
    stats = reader.stats()
    assert 1000 <= stats.near_hits < stats.hits
    usage = CacheMonitor(reader).get_memory_usage()
    assert usage["hits"] == reader.stats().hits
    assert usage["tenants"]["acme"]["hits"] == usage["hits"]


def test_counts_go_to_the_fleet_though_every_read_is_served_of_a_copy(
    reader: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stoker.cache.traffic.FLUSH_EVERY_S", 0.1)
    monkeypatch.setattr("stoker.cache.near_channel._TALLY_EVERY_S", 0.05)
    reader.set("k", 1)
    copied(reader, "k")
    served = reader.stats().near_hits

    def told() -> bool:
        reader.get("k")
        groups = reader._run(reader._core.backend.traffic())
        return sum(counts.hits for counts in groups.values()) > served + 5

    wait_until(told, 5)


def test_copies_are_shared_by_tasks_and_threads(cache_server: str, namespace: str) -> None:
    config = CacheConfig(backend="redis", redis_url=cache_server, namespace=namespace, near_size=10)

    async def main() -> None:
        async with AsyncCache(config) as alone:
            await alone.set("k", {"n": 1})
            while (await alone.explain("k"))["near"] != "served":
                await alone.get("k")
            hits = alone.stats().near_hits
            assert await alone.get("k") == {"n": 1}
            assert await alone.get_or_load("k", dict) == {"n": 1}
            assert await alone.get_many(["k"]) == {"k": {"n": 1}}
            assert alone.stats().near_hits == hits + 3
            began = time.monotonic()
            await alone.invalidate_pattern("k*", barrier=True)
            assert time.monotonic() - began >= BOUND_S
            assert await alone.get("k") is None

    asyncio.run(main())
    with Cache(config) as shared:
        shared.set("k", 2)
        copied(shared, "k")

        async def beside() -> None:
            async with AsyncCache(shared) as aio:
                assert await aio.get("k") == 2

        hits = shared.stats().near_hits
        asyncio.run(beside())
        assert shared.stats().near_hits == hits + 1


# -- the rules, without a server -----------------------------------------------------------------------------


class Told:
    """A `Near` that is told by hand what its channel would say, with the entry of a real cache."""

    def __init__(self, cache: Cache) -> None:
        self.shard = cache._core.backend.shards[0]  # type: ignore[attr-defined]
        config = CacheConfig(backend="redis", redis_url="redis://nowhere", near_size=10)
        self.near = Near(
            config, Counters(), Codec(compress_above=None, max_value_bytes=1024), bool, lambda *_: False
        )
        self.near.place([self.shard])
        cache.get("k")
        self.near.opened(next(iter(self.shard.view.control.boots)))
        [self.found] = cache._run(self.shard.read([(None, "k")]))
        self.answer = [self.found.blob, self.shard.view.control.raw]

    def ask(self) -> None:
        for _ in range(2):
            self.near.read([(None, "k")], [self.found], self.shard)
        assert self.near.questions()

    def beat(self) -> None:
        self.near.beat()
        self.near.heard([b"master"])
        self.near.heard({b"flags": [b"on"]})

    def hear(self) -> None:
        """The control record, and then the entry with it."""
        self.near.heard(self.answer[1])
        self.near.heard(self.answer)


@pytest.fixture
def told(writer: Cache) -> Told:
    writer.set("k", "value")
    return Told(writer)


def test_a_copy_is_served_once_a_beat_was_answered(told: Told) -> None:
    told.ask()
    told.hear()
    assert told.near.get("k", None, None) is ABSENT
    told.beat()
    assert told.near.get("k", None, None) == "value"
    time.sleep(BOUND_S)
    assert told.near.get("k", None, None) is ABSENT


def test_a_copy_that_was_on_its_way_when_it_was_changed_here_is_not_kept(told: Told) -> None:
    told.ask()
    told.near.forget([(None, "k")])
    told.hear()
    told.near.beat()
    assert told.near.state_of((None, "k")) == "absent"


def test_a_control_record_from_before_an_invalidation_of_ones_own_vouches_for_nothing(told: Told) -> None:
    told.ask()
    told.near.banned()
    told.hear()
    told.beat()
    assert told.near.state_of((None, "k")) == "held"
    assert told.near.get("k", None, None) is ABSENT


def test_a_flush_of_the_server_does_not_mix_up_the_answers_that_come_after_it(told: Told) -> None:
    told.ask()
    told.near.beat()
    told.near.heard(hiredis.PushNotification([b"invalidate", None]))
    told.hear()
    told.near.heard([b"master"])
    told.near.heard({b"flags": [b"on"]})
    assert told.near.get("k", None, None) == "value"
    told.near.heard(hiredis.PushNotification([b"invalidate", None]))
    assert told.near.get("k", None, None) is ABSENT


def test_what_is_no_entry_is_not_copied(told: Told) -> None:
    told.ask()
    told.answer[0] = b"l0123456789abcdef"
    told.hear()
    assert told.near.state_of((None, "k")) == "absent"


def test_a_server_that_the_control_record_does_not_name_is_not_believed(told: Told) -> None:
    told.near.opened(b"another")
    told.ask()
    told.hear()
    told.beat()
    assert told.near.get("k", None, None) is ABSENT


def test_a_demoted_server_ends_the_channel(told: Told) -> None:
    told.near.beat()
    with pytest.raises(Exception, match="replica"):
        told.near.heard([b"slave", b"127.0.0.1"])


def test_the_bound_is_counted_from_before_the_beat_was_sent_and_by_a_clock_that_does_not_sleep(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert getattr(time, "CLOCK_BOOTTIME", None) is None or near.clock is not time.monotonic
    monkeypatch.setattr(near, "clock", lambda: 1000.0)
    told.near.beat()
    monkeypatch.setattr(near, "clock", lambda: 1005.0)
    told.near.heard([b"master"])
    told.near.heard({b"flags": [b"on"]})
    assert told.near.until == pytest.approx(1000.0 + BOUND_S)


def test_a_later_answer_does_not_vouch_for_what_was_looked_at_before_it(
    writer: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that is held up in the middle of a read, while the channel catches up after a stall."""
    moments = [1000.0]
    meanwhile: list[Callable[[], None]] = []

    def clock() -> float:
        if meanwhile:
            meanwhile.pop()()
        return moments[0]

    monkeypatch.setattr(near, "clock", clock)
    writer.set("k", "value")
    told = Told(writer)
    told.ask()
    told.hear()
    told.beat()
    assert told.near.get("k", None, None) == "value"

    def held_up() -> None:
        moments[0] += 10
        told.near.changed([told.shard.keys.entry(None, "k")])
        told.beat()

    meanwhile.append(held_up)
    assert told.near.get("k", None, None) is ABSENT
