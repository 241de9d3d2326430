"""Copies of what is on a cluster: they come from all nodes; what becomes of channels, processes and placements."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from stoker.cache import Cache, CacheConfig, CacheSharder, CacheShardingConfig
from stoker.cache.near_nodes import NodeChannels
from stoker.worker.embedded_cluster import EmbeddedCluster
from tests.cache.awaited import Awaited
from tests.cache.cluster_nodes import admin, migrate, owner, slots_of
from tests.cache.conftest import MakeCache
from tests.cache.copied import BOUND_S, copied
from tests.waiting import wait_until

KEYS = [f"k{n}" for n in range(40)]


@pytest.fixture
def reader(make_clustered: MakeCache) -> Cache:
    """One that keeps copies."""
    return make_clustered(near_size=100)


@pytest.fixture
def writer(make_clustered: MakeCache) -> Cache:
    """Another process, as it were."""
    return make_clustered()


def threads() -> int:
    return sum(thread.name == "stoker-near" for thread in threading.enumerate())


def connections(cluster: EmbeddedCluster) -> int:
    """That track, to any node."""
    found = 0
    for node in range(len(cluster.primaries)):
        with admin(cluster, node) as client:
            found += sum("t" in one["flags"] for one in client.client_list())
    return found


@pytest.mark.parametrize("how", [Cache, Awaited])
def test_copies_come_from_all_nodes_and_a_barrier_lasts_as_long_as_any_of_them(
    make_clustered: MakeCache,
    writer: Cache,
    cache_cluster: EmbeddedCluster,
    how: Callable[[CacheConfig], Cache],
) -> None:
    wait_until(lambda: connections(cache_cluster) == 0)  # those of tests before this one have ended
    before = threads()
    reader = make_clustered(how, near_size=100)
    writer.set_many(dict.fromkeys(KEYS, "old"), tags=["t"])
    deadline = time.monotonic() + 20
    while reader.stats().near_entries < len(KEYS):
        assert time.monotonic() < deadline
        assert reader.get_many(KEYS) == dict.fromkeys(KEYS, "old")
        reader.get(KEYS[0])
    wait_until(lambda: reader.get("k1") and reader.explain("k1")["near"] == "served")
    assert (threads(), connections(cache_cluster)) == (before + 3, 3)
    writer.set("k1", "new", barrier=True)
    assert reader.get("k1") == "new"
    began = time.monotonic()
    writer.invalidate_tags(["t"], barrier=True)
    assert time.monotonic() - began >= BOUND_S
    assert reader.get_many(KEYS) == {"k1": "new"}
    reader.close()
    assert threads() == before
    wait_until(lambda: connections(cache_cluster) == 0)
    if isinstance(reader, Awaited):
        reader.end()


def test_what_one_changes_himself_he_reads_at_once(reader: Cache) -> None:
    for key in KEYS[:5]:
        reader.set(key, "old", tags=["t"])
    copied(reader, *KEYS[:5])
    reader.set(KEYS[0], "new")
    assert reader.delete(KEYS[1])
    reader.invalidate_pattern(KEYS[2])
    assert reader.get_many(KEYS[:5]) == {KEYS[0]: "new", KEYS[3]: "old", KEYS[4]: "old"}
    reader.invalidate_tags(["t"])
    assert reader.get_many(KEYS[:5]) == {KEYS[0]: "new"}


def test_nodes_that_let_nobody_track_are_told_of_once_and_reads_go_on(
    make_clustered: MakeCache,
    cache_cluster: EmbeddedCluster,
    namespace: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rules = ["on", "nopass", "~*", "+@all", "-client|tracking"]
    for node in range(3):
        with admin(cache_cluster, node) as client:
            client.execute_command("ACL", "SETUSER", namespace, *rules)
    cache = make_clustered(near_size=100, redis_url=cache_cluster.url.replace("://", f"://{namespace}:x@"))
    cache.set_many(dict.fromkeys(KEYS, 1))
    channels = cache._channel
    assert isinstance(channels, NodeChannels)
    wait_until(lambda: cache.get_many(KEYS) and sum(one.stream.deaf for one in channels.all) == 3)
    assert cache.get_many(KEYS) == dict.fromkeys(KEYS, 1)
    assert (caplog.text.count("no near cache"), cache.stats().near_hits) == (1, 0)
    for node in range(3):
        with admin(cache_cluster, node) as client:
            client.execute_command("ACL", "DELUSER", namespace)


def test_copies_follow_keys_that_come_to_live_in_other_shards(reader: Cache, writer: Cache) -> None:
    for shards in (3, 5):
        writer.set("k", shards)
        copied(reader, "k")
        writer.reshard(shards)
        writer.set("k", 0, barrier=True)
        assert reader.get("k") == 0
    copied(reader, "k")


@pytest.mark.slow
def test_the_channel_of_a_node_ends_when_nothing_is_there_any_more(
    reader: Cache, writer: Cache, cache_cluster: EmbeddedCluster
) -> None:
    before = threads()
    CacheSharder(writer, CacheShardingConfig(enabled=True, num_shards=6))
    writer.set_many(dict.fromkeys(KEYS, 1))
    copied(reader, *KEYS)
    homes = {owner(cache_cluster, slot) for slot in slots_of(reader)}
    assert threads() == before + len(homes)
    for slot in slots_of(writer):
        if owner(cache_cluster, slot) != 0:
            migrate(cache_cluster, slot, 0)
    writer.set_many(dict.fromkeys(KEYS, 2), barrier=True)
    assert reader.get_many(KEYS) == dict.fromkeys(KEYS, 2)
    copied(reader, *KEYS)
    wait_until(lambda: threads() == before + 1)


@pytest.mark.slow
def test_a_forked_child_begins_without_copies_on_channels_of_its_own(
    cache_cluster: EmbeddedCluster, namespace: str
) -> None:
    command = [sys.executable, "-c", FORKED, cache_cluster.url, namespace]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.stdout == "well\n", run.stderr


FORKED = """
import os, sys
from stoker.cache import Cache, CacheConfig
keys = [f"k{n}" for n in range(10)]
def copied():
    while any(cache.explain(key)["near"] != "served" for key in keys):
        cache.get_many(keys)
config = dict(backend="redis", redis_url=sys.argv[1], cluster=True, namespace=sys.argv[2])
cache = Cache(CacheConfig(**config, near_size=20))
cache.set_many(dict.fromkeys(keys, "value"))
copied()
pid = os.fork()
if pid == 0:
    assert {cache.explain(key)["near"] for key in keys} == {"absent"}
copied()
if pid == 0:
    cache.set_many(dict.fromkeys(keys, "of the child"), barrier=True)
    cache.close()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert set(cache.get_many(keys).values()) == {"of the child"}
copied()
cache.close()
print("well")
"""
