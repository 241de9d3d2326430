"""Control state that is lost, foreign, corrupt or rolled back costs hits, never truth (rules 3 to 7)."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from stoker.cache import (
    Cache,
    CacheMonitor,
    CacheSharder,
    CacheShardingConfig,
    CacheUnavailable,
    InvalidationNotAcknowledged,
    PlacementMismatch,
    scripts,
)
from stoker.cache.backends.redis import RedisBackend
from stoker.cache.bans import Control
from stoker.cache.control import ATTEMPTS
from stoker.cache.entry import MAX_SEQ, Stamp, pack
from stoker.cache.keys import ShardKeys
from stoker.cache.protocol import Shard
from stoker.cache.shards import Agreement
from stoker.cache.wire import Answer, Call, Operation, once
from tests.cache.conftest import MakeCache

Client = Any  # redis.Redis, whose annotations know sync and async answers at once


@pytest.fixture
def keys(namespace: str) -> ShardKeys:
    return ShardKeys(namespace)


def shard(cache: Cache) -> Shard:
    backend = cache._core.backend
    assert isinstance(backend, RedisBackend)
    return backend.shards[0]


def control(client: Client, keys: ShardKeys) -> Control:
    found = Control.parse(client.get(keys.ctl))
    assert found is not None
    return found


def edited(raw: bytes, **fields: str) -> bytes:
    """The control record with some fields replaced."""
    names = ["version", "inc", "head", "nonce", "closing", "floor", "gen", "digest", "boots"]
    parts = dict(zip(names, raw.decode().split(":"), strict=True)) | fields
    return ":".join(parts.values()).encode()


LOSSES: dict[str, Callable[[Client, ShardKeys], Any]] = {
    "the record": lambda client, keys: client.delete(keys.ctl),
    "the ban log": lambda client, keys: client.delete(keys.bans),
    "both": lambda client, keys: client.delete(keys.ctl, keys.bans),
    "everything but entries": lambda client, keys: client.delete(keys.ctl, keys.bans, keys.marks, keys.map),
    "garbage": lambda client, keys: client.set(keys.ctl, b"\xff garbage"),
    "a cut record": lambda client, keys: client.set(keys.ctl, client.get(keys.ctl)[:30]),
    "a floor above the head": lambda client, keys: client.set(
        keys.ctl, edited(client.get(keys.ctl), floor="99")
    ),
    "a head beyond counting": lambda client, keys: client.set(
        keys.ctl, edited(client.get(keys.ctl), head=str(MAX_SEQ + 1))
    ),
    "another server": lambda client, keys: client.set(keys.ctl, edited(client.get(keys.ctl), boots="0" * 16)),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_after_a_loss_what_was_banned_stays_dead(
    make_redis: MakeCache, client: Client, keys: ShardKeys, loss: str
) -> None:
    writer, reader = make_redis(), make_redis()
    writer.set("user:1", "old", tags=["t"])
    assert reader.get("user:1") == "old"
    writer.invalidate_tags(["t"])
    LOSSES[loss](client, keys)
    fresh = make_redis()  # knows nothing of the log before
    writer.invalidate_tags(["other"])
    assert [c.get("user:1") for c in (reader, fresh, writer)] == [None, None, None]
    writer.set("user:1", "new")
    assert [c.get("user:1") for c in (reader, fresh, writer)] == ["new", "new", "new"]


@pytest.mark.parametrize("loss", LOSSES)
def test_after_a_loss_every_operation_goes_on(
    make_redis: MakeCache, client: Client, keys: ShardKeys, loss: str
) -> None:
    operations: list[Callable[[Cache], Any]] = [
        lambda c: c.get("k"),
        lambda c: c.get_many(["k"]),
        lambda c: c.set("k", 1),
        lambda c: c.delete("k"),
        lambda c: c.get_or_load("k", lambda: 1),
        lambda c: c.set("k", 1, token=c.snapshot("k")),
        lambda c: c.invalidate_pattern("x*"),
        lambda c: c.sweep(),
    ]
    for operation in operations:
        cache = make_redis()
        cache.set("seed", 1)
        LOSSES[loss](client, keys)
        operation(cache)
        assert cache.set("k", 2)
        assert cache.get("k") == 2


def test_an_older_head_of_the_same_life_is_a_rollback(
    make_redis: MakeCache, client: Client, keys: ShardKeys
) -> None:
    cache = make_redis()
    cache.set("k", 1)
    before = control(client, keys).raw
    cache.invalidate_pattern("k*")
    assert cache.get("k") is None
    client.set(keys.ctl, before)
    client.zremrangebyscore(keys.bans, 2, "(+inf")
    assert cache.get("k") is None
    assert control(client, keys).incarnation != Control.parse(before).incarnation  # type: ignore[union-attr]


def test_the_same_head_with_another_history_is_a_rollback(
    make_redis: MakeCache, client: Client, keys: ShardKeys
) -> None:
    cache = make_redis()
    cache.invalidate_pattern("a*")
    cache.get("k")
    first = control(client, keys)
    client.set(keys.ctl, edited(first.raw, nonce="0" * 8))
    cache.get("k")
    assert control(client, keys).incarnation != first.incarnation


def test_a_record_that_only_a_sweep_has_changed_is_adopted_without_reading_the_rules_again(
    make_redis: MakeCache, client: Client, keys: ShardKeys
) -> None:
    cache = make_redis()
    cache.set("k", 1)
    for tag in "abc":
        cache.invalidate_tags([tag])
    assert cache.get("k") == 1
    view, raw = shard(cache).view, client.get(keys.ctl)
    for closing, adopted in (("3", True), ("2", False), ("4", True)):
        client.set(keys.ctl, edited(raw, closing=closing))
        assert cache.get("k") == 1
        assert (shard(cache).view.control.closing == int(closing)) == adopted
        assert shard(cache).view.bans is view.bans
    make_redis().invalidate_tags(["d"])
    client.set(keys.ctl, edited(client.get(keys.ctl), closing="5"))
    assert cache.get("k") == 1
    assert len(shard(cache).view.bans) == len(view.bans) == 4


def test_a_life_that_has_ended_does_not_come_back(
    make_redis: MakeCache, client: Client, keys: ShardKeys
) -> None:
    cache = make_redis()
    cache.set("k", 1)
    old, log = client.get(keys.ctl), client.zrange(keys.bans, 0, -1, withscores=True)
    client.delete(keys.ctl)
    assert cache.get("k") is None
    client.set(keys.ctl, old)
    client.delete(keys.bans)
    client.zadd(keys.bans, dict(log))
    assert cache.get("k") is None


def test_another_good_life_is_adopted_not_fought(
    make_redis: MakeCache, client: Client, keys: ShardKeys
) -> None:
    one, other = make_redis(), make_redis()
    one.set("k", 1)
    other.get("k")
    client.delete(keys.ctl)
    one.set("k", 2)
    ruling = control(client, keys).incarnation
    assert other.get("k") == 2
    assert one.get("k") == 2
    assert control(client, keys).incarnation == ruling


def test_repeating_a_fence_begins_one_more_life_never_the_same(
    make_redis: MakeCache, client: Client, keys: ShardKeys
) -> None:
    cache = make_redis()
    operation = shard(cache).fence(b"", "test")
    commands = next(operation)
    while not (isinstance(commands[0], Call) and commands[0].script is scripts.FENCE):
        commands = operation.send(cache._run(once(*commands)))
    cache._run(once(*commands))
    first = control(client, keys).incarnation
    client.delete(keys.ctl)
    cache._run(once(*commands))
    assert control(client, keys).incarnation != first


def test_a_rule_of_a_later_version_kills_its_whole_tenant(
    make_redis: MakeCache, client: Client, keys: ShardKeys
) -> None:
    cache, other = make_redis(), make_redis()
    cache.set("k", 1, "acme")
    cache.set("k", 1, "globex")
    cache.invalidate_tags(["t"], "acme")
    client.zadd(keys.bans, {b"z|acme|something new": control(client, keys).head})
    assert (other.get("k", "acme"), other.get("k", "globex")) == (None, 1)


def test_a_reader_reads_again_when_bans_retired_under_it(make_redis: MakeCache) -> None:
    """Rule 4: an answer from before a sweep must not be judged by a view from after it."""
    cache, sweeper = make_redis(max_load=0.1, lease=0.1), make_redis(max_load=0.1, lease=0.1)
    cache.set("user:1", "old")
    cache.get("user:1")
    sweeper.invalidate_pattern("user:*")
    operation = shard(cache).read([(None, "user:1")])
    late = cache._run(once(*next(operation)))  # read, and not judged yet
    while sweeper.sweep().retired == 0:
        pass
    cache.get("other")  # another thread brings the view past the sweep
    asked_again = operation.send(late)
    with pytest.raises(StopIteration) as stopped:
        operation.send(cache._run(once(*asked_again)))
    assert stopped.value.value == [None]


def test_processes_with_other_placement_are_refused_with_the_remedy(make_redis: MakeCache) -> None:
    make_redis(max_load=60).set("k", 1)
    other = make_redis(max_load=30)
    message = re.escape(
        "max_load_ms=30000: the namespace is open with max_load_ms=60000, and what is stored there"
    )
    for operation in (
        lambda: other.get("k"),
        lambda: other.set("k", 2),
        lambda: other.delete("k"),
        lambda: other.invalidate_pattern("*"),
    ):
        with pytest.raises(PlacementMismatch, match=message):
            operation()


def test_a_lost_map_is_not_replaced_by_other_settings_while_a_record_stands(
    make_redis: MakeCache, client: Client, keys: ShardKeys
) -> None:
    make_redis().set("k", 1)
    client.delete(keys.map)
    other = make_redis()
    CacheSharder(other, CacheShardingConfig(enabled=True, num_shards=2))
    with pytest.raises(
        PlacementMismatch, match="it was lost, and what is stored was placed by other settings"
    ):
        other.get("k")


def test_a_process_that_was_told_nothing_waits_until_one_that_knows_a_lost_map_writes_it_again(
    make_redis: MakeCache, client: Client, keys: ShardKeys
) -> None:
    cache, other = make_redis(), make_redis()
    CacheSharder(cache, CacheShardingConfig(enabled=True, num_shards=2))
    cache.set_many({"k": 1, "l": 2, "m": 3})
    client.delete(keys.map)
    assert other.get("k") is None
    with pytest.raises(InvalidationNotAcknowledged, match="it was lost"):
        other.set("k", 2)
    CacheMonitor(cache).get_lives()  # as a task of beat does
    assert other.set("k", 2)
    assert cache.get("k") == 2


def test_if_nobody_writes_it_again_it_does(
    make_redis: MakeCache, client: Client, keys: ShardKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, other = make_redis(), make_redis()
    CacheSharder(cache, CacheShardingConfig(enabled=True, num_shards=2))
    cache.set_many({"k": 1, "l": 2, "m": 3})
    client.delete(keys.map)
    assert other.get("k") is None
    monkeypatch.setattr(Agreement, "patience_s", 0.0)
    assert other.set("k", 2)
    with pytest.raises(PlacementMismatch, match="num_shards=2"):
        cache.invalidate_pattern("*")


def test_a_map_that_is_written_again_begins_a_new_life(
    make_redis: MakeCache, client: Client, keys: ShardKeys
) -> None:
    cache, other = make_redis(), make_redis()
    cache.set("k", 1)
    other.get("k")
    before = client.get(keys.map)
    client.delete(keys.map, keys.ctl)
    assert cache.get("k") is None
    assert client.get(keys.map) != before
    cache.set("k", 2)
    assert other.get("k") == 2  # the same settings: it goes by the new map


def test_a_map_of_other_settings_ends_what_was_stored_under_the_earlier_one(
    make_redis: MakeCache, client: Client, keys: ShardKeys
) -> None:
    """What the earlier map's processes do not hear of meanwhile must not come back with it."""
    cache, other = make_redis(), make_redis()
    CacheSharder(cache, CacheShardingConfig(enabled=True, num_shards=2))
    cache.set_many({f"k{i}": "old" for i in range(20)})
    client.delete(keys.map, keys.ctl)
    other.set("k1", "theirs")  # one shard now
    with pytest.raises(PlacementMismatch, match="num_shards=2"):
        cache.get("k1")
    client.delete(keys.map, keys.ctl)
    assert cache.get_many([f"k{i}" for i in range(20)]) == {}


def test_unreadable_entries_are_misses(make_redis: MakeCache, client: Client, keys: ShardKeys) -> None:
    cache = make_redis()
    cache.set("k", {"some": "value"}, tags=["a", "b"])
    name = keys.entry(None, "k")
    whole = client.get(name)
    bad = [
        b"",
        b"x",
        whole[:20],
        whole[:-1],
        whole + b"x",
        b"XX" + whole[2:],
        whole[:2] + b"\x09" + whole[3:],
        whole[:-5] + b"\xc1" * 5,
    ]
    for blob in bad:
        client.set(name, blob, keepttl=True)
        assert cache.get("k", default="miss") == "miss"
        assert cache.get_many(["k"]) == {}
    client.set(name, whole, keepttl=True)
    assert cache.get("k") == {"some": "value"}


def test_scripts_that_the_server_has_forgotten_are_sent_again(make_redis: MakeCache, client: Client) -> None:
    cache = make_redis()
    for _ in range(2):
        client.script_flush()
        assert cache.set("k", 1)
        assert cache.get_or_load("l", lambda: 2) == 2
        cache.invalidate_pattern("x*")
        assert cache.delete("l")


def test_a_set_that_the_record_never_allows_ends(make_redis: MakeCache) -> None:
    cache = make_redis()
    cache.set("k", 1)
    refused = 0

    def on_a_server_that_refuses(storing: Operation[list[bool]]) -> Operation[list[bool]]:
        nonlocal refused
        commands = next(storing)
        while True:
            if isinstance(commands[0], Call) and commands[0].script is scripts.SET:
                refused += 1
                answer = Answer([0] * len(commands), b"", b"")
            else:
                answer = yield commands
            commands = storing.send(answer)

    entry = pack(Stamp(b"\0" * 8, 0), b"\1", 1, 0, (), 0, 0, 0)
    with pytest.raises(CacheUnavailable, match="keeps changing; try again"):
        cache._run(on_a_server_that_refuses(shard(cache).store([((None, "k"), entry, 0)])))
    assert refused == ATTEMPTS


def test_an_invalidation_that_no_server_confirms_is_an_error(make_redis: MakeCache) -> None:
    cache = make_redis(redis_url="redis://127.0.0.1:1/0", connect_timeout=0.2)
    for operation in (
        lambda: cache.set("k", 1),
        lambda: cache.set_many({"k": 1}),
        lambda: cache.delete("k"),
        lambda: cache.snapshot("k"),
        lambda: cache.invalidate_pattern("k*"),
        lambda: cache.invalidate_tags(["t"]),
        lambda: cache.invalidate_tenant("acme"),
    ):
        with pytest.raises(InvalidationNotAcknowledged, match="repeat it"):
            operation()
    assert cache.get("k", default="miss") == "miss"
    assert cache.get_many(["k"]) == {}
    assert cache.get_or_load("k", lambda: "loaded") == "loaded"
    assert cache.ping() is False
    assert cache.stats().unavailable > 0
