"""Pins, and changing where keys live, on every backend, called and awaited."""

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import redis

from stoker.cache import (
    Cache,
    CacheMonitor,
    CacheSharder,
    CacheShardingConfig,
    CacheUnavailable,
    ConfigError,
    InvalidName,
    PlacementMismatch,
)
from stoker.cache.backends import Write
from stoker.cache.backends.redis import RedisBackend
from stoker.cache.batch import BatchFill
from stoker.cache.control import ATTEMPTS
from stoker.cache.shards import CLUSTER_SHARDS, MOST_PINS, Resharded
from stoker.cache.worth import Turn
from tests.cache.awaited import Awaited
from tests.cache.conftest import MakeCache
from tests.plain_cluster import plain_cluster
from tests.waiting import wait_until

KEYS = [f"user:{n}" for n in range(100)]


CLUSTERS = ("cluster", "async cluster")


@pytest.fixture(
    params=["redis", "async redis", *(pytest.param(one, marks=pytest.mark.slow) for one in CLUSTERS)]
)
def make(request: pytest.FixtureRequest) -> Iterator[MakeCache]:
    """Make caches of one namespace, each as another process would have it."""
    where = "make_clustered" if "cluster" in request.param else "make_redis"
    inner: MakeCache = request.getfixturevalue(where)
    if "async" not in request.param:
        yield inner
        return
    made: list[Any] = []

    def awaited(**fields: object) -> Cache:
        made.append(inner(Awaited, **fields))
        return made[-1]  # type: ignore[no-any-return]

    yield awaited
    for cache in made:
        cache.end()


def sharded(cache: Cache, num_shards: int | None = None, **fields: Any) -> CacheSharder:
    return CacheSharder(cache, CacheShardingConfig(True, num_shards, **fields))


def heads(cache: Cache) -> list[int]:
    backend = cache._core.backend
    assert isinstance(backend, RedisBackend)
    return [view.control.head for view in cache._run(backend.views())]


# -- pins -------------------------------------------------------------------------------------------------------


def test_all_keys_of_a_pinned_tenant_live_in_its_shard_and_are_invalidated_there_alone(
    make: MakeCache,
) -> None:
    cache = make()
    sharder = sharded(cache, 8, pins={"acme": 3})
    cache.set_many(dict.fromkeys(KEYS, 1), "acme", tags=["t"])
    cache.set_many(dict.fromkeys(KEYS, 2), "globex", tags=["t"])
    assert (
        {sharder.shard_for(key, "acme") for key in KEYS} == {cache.explain("user:1", "acme")["shard"]} == {3}
    )
    assert {sharder.shard_for(key, "globex") for key in KEYS} == set(range(8))
    before = heads(cache)
    cache.invalidate_pattern("user:1?", "acme")
    cache.invalidate_tags(["t"], "acme")
    cache.invalidate_tenant("acme")
    assert heads(cache) == [head + 3 * (number == 3) for number, head in enumerate(before)]
    assert cache.get_many(KEYS, "acme") == {}
    cache.invalidate_pattern("user:1?", "globex")
    assert heads(cache) == [head + 1 + 3 * (number == 3) for number, head in enumerate(before)]
    assert len(cache.get_many(KEYS, "globex")) == 90


def test_on_memory_pins_say_where_keys_would_live() -> None:
    with Cache() as cache:
        sharder = sharded(cache)
        cache.set_many(dict.fromkeys(KEYS, 1), "acme")
        report = cache.reshard(4, pin={"acme": 3})
        assert (report.num_shards, report.pins, report.before) == (4, {"acme": 3}, 1)
        assert sharder.distribution() == {0: 0, 1: 0, 2: 0, 3: 100}
        assert cache.reshard(unpin=["acme"]).pins == {}
        assert max(sharder.distribution().values()) < 50
        assert len(cache.get_many(KEYS, "acme")) == 100  # nothing has moved


@pytest.mark.parametrize(
    ("pins", "told"),
    [
        ({"acme": 4}, "pins={'acme': 4}: give a number from 0 to 3"),
        ({"acme": -1}, "from 0 to 3"),
        ({"acme": True}, "from 0 to 3"),
        ({"acme": "1"}, "from 0 to 3"),
        ({None: 1}, "name a tenant"),
        ({f"t{n}": 0 for n in range(MOST_PINS + 1)}, "at most 1000 tenants"),
        (["acme"], "at most 1000 tenants"),
    ],
)
def test_pins_are_checked(pins: Any, told: str) -> None:
    with Cache() as cache, pytest.raises(ConfigError, match=re.escape(told)):
        sharded(cache, 4, pins=pins)


def test_a_pin_names_a_tenant_that_there_can_be() -> None:
    with Cache() as cache, pytest.raises(InvalidName, match="must not be empty"):
        sharded(cache, 4, pins={"": 1})


def test_who_was_told_nothing_goes_by_the_namespace_and_who_was_told_otherwise_is_refused(
    make_redis: MakeCache,
) -> None:
    first, second, third, fourth = (make_redis() for _ in range(4))
    sharded(first, 8, pins={"acme": 3})
    first.set_many(dict.fromkeys(KEYS, 1), "acme")
    assert second.get_many(KEYS, "acme") == dict.fromkeys(KEYS, 1)
    assert second.explain("user:1", "acme")["shard"] == 3
    assert sharded(make_redis(), 8).shard_for("user:1", "acme") != 3  # as long as it has not asked
    sharded(third, 8, pins={"acme": 4})
    with pytest.raises(PlacementMismatch, match=r"pins={'acme': 4}: .* pins=\[\['acme', 3\]\].*leave it out"):
        third.get("user:1", "acme")
    sharded(fourth, pins={})
    with pytest.raises(PlacementMismatch, match=r"pins=\{\}"):
        fourth.invalidate_tenant("acme")


def test_who_was_told_nothing_counts_all_shards_from_the_first_and_opens_no_namespace_by_that(
    make: MakeCache, namespace: str
) -> None:
    looking, first = make(), make()
    assert counted(looking) == {0: 0} or looking.config.cluster
    assert _names(looking, namespace) == []
    sharder = sharded(first, 8)
    first.set_many(dict.fromkeys(KEYS, 1))
    assert counted(looking) == counted(make()) == sharder.distribution()


def counted(cache: Cache) -> dict[int, int]:
    return cache._run(cache._core.backend.entries_by_shard())


# -- changing them, and the number ---------------------------------------------------------------------------------


def test_all_processes_go_by_the_change_at_their_next_operation(make: MakeCache) -> None:
    # Given processes that were told nothing, and one that was
    cache, other, told = make(), make(), make()
    sharded(told, 8)
    told.set_many(dict.fromkeys(KEYS, "old"), "acme")
    assert len(cache.get_many(KEYS, "acme")) == len(other.get_many(KEYS, "acme")) == 100
    # When one of them changes the number, and pins the tenant
    report = cache.reshard(16, pin={"acme": 9})
    # Then all begin cold, and find what each other stores
    assert (report.num_shards, report.pins, report.before) == (16, {"acme": 9}, 8)
    assert other.get_many(KEYS, "acme") == {}
    other.set_many(dict.fromkeys(KEYS, "new"), "acme")
    assert cache.get_many(KEYS, "acme") == dict.fromkeys(KEYS, "new")
    assert cache.explain("user:1", "acme")["shard"] == 9
    cache.delete("user:1", "acme")
    assert other.get("user:1", "acme") is None
    cache.invalidate_pattern("user:2*", "acme")
    assert len(other.get_many(KEYS, "acme")) == 88
    # And who was told the old number is refused, with the remedy
    for call in (partial(told.get, "user:1"), partial(told.invalidate_tenant, "acme")):
        with pytest.raises(PlacementMismatch, match=r"num_shards=8: .*open with num_shards=16.*leave it out"):
            call()
    # And once more changes nothing
    assert cache.reshard(16).before is None
    assert len(other.get_many(KEYS, "acme")) == 88
    assert cache.reshard(unpin=["acme", "nobody"]).pins == {}
    assert other.get_many(KEYS, "acme") == {}


@pytest.mark.parametrize("how", [Cache, Awaited])
def test_on_a_cluster_too(make_clustered: MakeCache, how: Any) -> None:
    """In short, since all of this file runs on a cluster among the slow tests."""
    cache, other = make_clustered(how), make_clustered(how)
    other.set_many(dict.fromkeys(KEYS, "old"), "acme")
    report = cache.reshard(16, pin={"acme": 9})
    assert (report.num_shards, report.before) == (16, CLUSTER_SHARDS)
    assert other.get_many(KEYS, "acme") == {}
    other.set_many(dict.fromkeys(KEYS, "new"), "acme")
    cache.invalidate_pattern("user:1?", "acme")
    assert len(cache.get_many(KEYS, "acme")) == 90
    assert {shard for shard, head in enumerate(heads(cache)) if head > 1} == {9}
    for one in (cache, other):
        if isinstance(one, Awaited):
            one.end()


def test_the_first_operation_after_the_change_may_be_any(make: MakeCache) -> None:
    cache = make()
    calls: list[tuple[Any, object]] = [
        (lambda one: one.get("k"), None),
        (lambda one: one.get_many(["k", "l"]), {}),
        (lambda one: one.set("k", 2), True),
        (lambda one: one.set_many({"k": 2, "l": 3}), True),
        (lambda one: one.get_or_load("k", lambda: 7), 7),
        (lambda one: one.set("k", 2, token=one.snapshot("k")), True),
        (lambda one: one.delete("k"), False),
        (lambda one: one.invalidate_pattern("k*"), None),
        (lambda one: one.invalidate_tags(["t"]), None),
        (lambda one: one.explain("k")["state"] == "live", False),
        (lambda one: one.sweep().complete, True),
        (lambda one: one.evict(target_bytes=2**40).dropped, 0),
        (lambda one: sum(counted(one).values()), 0),
        (lambda one: len(one._run(one._core.backend.views())), len),
    ]
    others = [make() for _ in calls]
    for other in others:
        other.set("k", 1)
    for shards, ((call, expected), other) in enumerate(zip(calls, others, strict=True), 5):
        cache.reshard(shards)
        assert call(other) == (shards if expected is len else expected)
        other.invalidate_pattern("*")


@pytest.mark.parametrize(
    "use",
    [
        lambda cache: cache._core.backend.read(None, "k"),
        lambda cache: cache._core.backend.read_values(None, ["k", "l"]),
        lambda cache: cache._core.backend.store(None, [("k", Write("v", 0, 0, (), 0))]),
        lambda cache: cache._core.backend.read_many(None, ["k"]),
    ],
    ids=["read", "read_values", "store", "read_many"],
)
def test_a_namespace_that_changes_at_every_attempt_is_given_up(
    make_redis: MakeCache, monkeypatch: pytest.MonkeyPatch, use: Any
) -> None:
    cache = make_redis()
    cache.set("k", 1)  # now it is known, for a while, whether somebody is full
    backend: Any = cache._core.backend
    met: list[Resharded] = []
    monkeypatch.setattr(backend, "settle", met.append)
    shard = backend.space.shards[0]
    news = Resharded(shard.agreement, shard.agreement.placement, b"")
    operation = use(cache)
    next(operation)
    for _ in range(ATTEMPTS - 1):
        operation.throw(news)
    with pytest.raises(CacheUnavailable, match="again and again"):
        operation.throw(news)
    assert len(met) == ATTEMPTS


def test_what_was_leased_before_the_change_is_not_stored(make_redis: MakeCache) -> None:
    cache, other = make_redis(), make_redis()
    token = cache.snapshot("k")
    batches = cache._run(cache._core.backend.begin_batches([(None, "l")]))
    other.reshard(4)
    assert cache.set("k", "late", token=token) is False
    if batches is not None:  # not in memory
        fill = BatchFill(batches[0], ["late"], [(60_000, 0)], [()], 0, Turn.NORMAL)
        assert cache._run(cache._core.backend.fill_batches([fill])) == [False]
    assert other.get_many(["k", "l"]) == {}


def test_what_is_in_shards_that_are_no_more_is_unlinked(make: MakeCache, namespace: str) -> None:
    cache = make()
    sharded(cache, 32)  # which this process is told; so another one has to change it
    cache.set_many(dict.fromkeys(KEYS, 1))
    cache.invalidate_pattern("x*")
    other = make()
    report = other.reshard(3)
    assert report.unlinked > 50
    names = [name.decode() for name in _names(other, namespace)]
    assert {int(name.split(":")[1].rstrip("}")) for name in names if "}:e:" in name} <= {0, 1, 2}
    assert not [name for name in names if re.search(r":([3-9]|\d\d)\}:", name)]
    wait_until(lambda: other.sweep().complete and not [n for n in _names(other, namespace) if b"}:e:" in n])


def plain(cache: Cache) -> Any:
    """A plain client of what the cache is on."""
    url = str(cache.config.redis_url)
    return plain_cluster(url) if cache.config.cluster else redis.Redis.from_url(url)


def _names(cache: Cache, namespace: str) -> list[bytes]:
    with plain(cache) as client:
        return list(client.scan_iter(f"{{{namespace}:*", count=1000))


def test_a_walk_goes_on_over_a_change(make: MakeCache) -> None:
    cache, other = make(max_load=0.2, lease=0.2), make(max_load=0.2, lease=0.2)
    cache.set_many(dict.fromkeys(KEYS, 1))
    cache.invalidate_pattern("user:1*")
    steps = cache.sweep_steps(batch=1)
    cursor = next(iter(steps)).cursor
    other.reshard(5)
    *_, last = steps
    assert last.report.complete
    *_, last = cache.sweep_steps(cursor=cursor)  # of another process, say, that resumes
    assert last.last
    wait_until(lambda: cache.sweep().complete and CacheMonitor(cache).get_memory_usage()["cache_size"] == 0)


def test_a_copy_in_a_process_does_not_outlive_the_change(make_redis: MakeCache) -> None:
    # Given a process that serves a copy
    near, other = make_redis(near_size=10), make_redis()
    other.set("k", "old")
    wait_until(lambda: near.get("k") == "old" and near.explain("k")["near"] == "served")
    # When the key comes to live elsewhere, and changes there
    other.reshard(8)
    other.set("k", "new", barrier=True)
    # Then it is served what is true, and copies of that
    assert near.get("k") == "new"
    wait_until(lambda: near.get("k") == "new" and near.explain("k")["near"] == "served")
    other.set("k", "newest", barrier=True)
    assert near.get("k") == "newest"


def by_length(key: str) -> int:
    return len(key)


def by_its_end(key: str) -> int:
    return ord(key[-1])


def test_another_function_takes_the_place_of_the_first_only_if_told_to(make: MakeCache) -> None:
    first, second, plain = make(), make(), make()
    sharded(first, 4, shard_key_func=by_length)
    first.set("abc", 1)
    sharded(second, shard_key_func=by_its_end)
    for call in (lambda: second.get("abc"), lambda: second.reshard(8)):
        with pytest.raises(PlacementMismatch, match="use a function that gives the same answers"):
            call()
    with pytest.raises(PlacementMismatch, match=r"hash='crc32': .*hash='custom'"):
        plain.reshard(pin={"acme": 1})
    assert second.reshard(function=True).before == 4
    second.set("abc", 2)
    assert second.explain("abc")["shard"] == ord("c") % 4
    with pytest.raises(PlacementMismatch, match="use a function that gives the same answers"):
        first.get("abc")
    assert plain.reshard(6, function=True).num_shards == 6
    assert plain.get("abc") is None


def test_who_was_told_otherwise_does_not_bring_about_what_would_refuse_him(make_redis: MakeCache) -> None:
    cache = make_redis()
    sharded(cache, 8, pins={"acme": 3})
    cache.set("k", 1)
    with pytest.raises(ConfigError, match=r"num_shards=16: this process was told 8, .*\(STOKER_NUM_SHARDS\)"):
        cache.reshard(16)
    with pytest.raises(ConfigError, match=r"pins={'acme': 4}: .*\(STOKER_SHARD_PINS\)"):
        cache.reshard(pin={"acme": 4})
    with pytest.raises(ConfigError, match="from 0 to 2"):
        make_redis().reshard(3)  # which leaves the pin without its shard
    assert cache.get("k") == 1
    assert make_redis().reshard(3, unpin=["acme"]).num_shards == 3


def test_who_is_told_the_new_number_may_bring_it_about(make: MakeCache) -> None:
    make().set("k", 1)
    new = make()
    sharded(new, 16)
    with pytest.raises(PlacementMismatch):
        new.get("k")
    assert new.reshard(16).num_shards == 16
    assert new.set("k", 2)


def test_a_lost_map_is_written_anew_with_what_is_asked_for(make: MakeCache, namespace: str) -> None:
    cache = make()
    assert cache.reshard(16).before == 0  # the namespace was not there
    cache.set_many(dict.fromkeys(KEYS, 1))
    with plain(cache) as client:
        client.delete(f"{{{namespace}}}:map")
    stranger = make()
    sharded(stranger, 5)
    with pytest.raises(PlacementMismatch, match="write another by `stoker reshard`"):
        stranger.reshard(pin={"acme": 1})
    assert make().reshard(12).num_shards == 12
    assert cache.get_many(KEYS) == {}
    assert cache.set("k", 1)


def test_other_settings_are_not_changed_with_it(make: MakeCache) -> None:
    make(max_load=60).set("k", 1)
    with pytest.raises(PlacementMismatch, match="max_load_ms=30000"):
        make(max_load=30).reshard(8)
