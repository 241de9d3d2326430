"""What becomes of copies when channels, servers, processes or their own thread break, stop or fork."""

import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any

import pytest
import redis

from stoker.cache import Cache, CacheConfig, near_stream
from stoker.cache.near_channel import Channel, Conversation
from stoker.cache.near_stream import Stream
from stoker.worker.embedded import embedded_server
from tests.cache.conftest import MakeCache
from tests.cache.copied import BOUND_S, copied, state
from tests.waiting import wait_until


@pytest.fixture
def reader(make_redis: MakeCache) -> Cache:
    """One that keeps copies."""
    return make_redis(near_size=100)


@pytest.fixture
def writer(make_redis: MakeCache) -> Cache:
    """Another process, as it were."""
    return make_redis()


def channels(client: Any) -> list[dict[str, str]]:
    """Connections to the server that track."""
    return [one for one in client.client_list() if "t" in one["flags"]]


def stream_of(cache: Cache) -> Stream:
    """Of its only channel."""
    assert isinstance(cache._channel, Channel)
    return cache._channel.stream


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
    questions, asked = Stream.questions, threading.Event()

    def stop_tracking(self: Stream) -> bytes:
        found = questions(self)
        if self is stream_of(reader) and not asked.is_set():
            asked.set()
            self._sent.append(lambda _: None)
            found += near_stream._pack(("CLIENT", "TRACKING", "OFF"))
        return found

    monkeypatch.setattr(Stream, "questions", stop_tracking)
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


def test_what_a_server_refuses_for_now_is_asked_for_again_soon(
    namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    with embedded_server("cache") as server, redis.Redis.from_url(server.url) as client:
        client.config_set("busy-reply-threshold", 1)
        config = CacheConfig(
            backend="redis", redis_url=server.url, namespace=namespace, near_size=10, breaker_reset=0.1
        )
        with Cache(config) as cache, redis.Redis.from_url(server.url) as other:
            cache.set("k", 1)
            copied(cache, "k")
            flushes = cache.stats().near_flushes
            # When a script runs for so long that the server answers everybody with BUSY, and is ended
            script = threading.Thread(target=run_until_ended, args=(other,))
            script.start()
            wait_until(lambda: cache.get("k") is None and cache.stats().near_flushes > flushes, 20)
            wait_until(lambda: is_ended(client), 20)
            script.join()
            # Then there are copies again before long, and nobody has to be told
            wait_until(lambda: cache.get("k") == 1, 20)
            copied(cache, "k")
            assert "no near cache" not in caplog.text


def run_until_ended(client: Any) -> None:
    with suppress(redis.ResponseError):
        client.eval("while true do end", 0)


def is_ended(client: Any) -> bool:
    """Whether a script runs no more: it is told to end, if it has begun."""
    try:
        client.script_kill()
    except redis.ResponseError:
        return False
    return True


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
assert (cache.explain("k")["near"] == "absent") == (pid == 0)
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
    run = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert run.stdout == "well\n", run.stderr


def test_while_nobody_reads_nothing_is_sent_and_the_next_read_wakes_it(reader: Cache) -> None:
    reader.set("k", 1)
    copied(reader, "k")
    wait_until(lambda: stream_of(reader).resting, 5)
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
        assert "'client|tracking'" in caplog.text
        assert "the commands listed in docs/operations.md" in caplog.text
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
