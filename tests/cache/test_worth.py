"""What goes first, and how it is found: by value, by turn, by quota; from a sample that says how far it may be off."""

import json
import random
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis

from stoker.cache import Cache, CacheConfig, CacheMonitor, ConfigError, evict, worth
from stoker.cache.backends import Write
from stoker.cache.evict import _Walk, _way
from stoker.cache.keys import ShardKeys
from stoker.cache.loaders import Loader, Registry
from stoker.cache.programs import Sleep
from stoker.cache.quotas import Quota, Quotas, amount, over, room
from stoker.cache.steps import Step
from stoker.cache.worth import Turn
from stoker.worker.embedded import embedded_server

LIMIT = 32 * 2**20


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    with embedded_server("cache", cache_bytes=LIMIT) as server:
        yield server.url


@pytest.fixture
def plain(server_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(server_url) as client:
        client.flushall()
        client.config_set("maxmemory", LIMIT)
        client.config_set("maxmemory-policy", "volatile-lfu")
        client.config_set("lfu-decay-time", 0)  # else what was read once is worth less when a minute begins
        yield client


@pytest.fixture
def cache(server_url: str, plain: Any) -> Iterator[Cache]:
    assert plain
    with Cache(CacheConfig(backend="redis", redis_url=server_url, compress_above=None)) as opened:
        yield opened


def put(cache: Cache, name: str, count: int, *, size: int = 500, cost_us: int = 1000, **how: Any) -> None:
    """Entries as loads of that cost would have left them."""
    tenant = how.pop("tenant", None)
    write = Write(b"x" * size, 3_600_000, 0, (), cost_us, **how)
    cache._run(cache._core.backend.store(tenant, [(f"{name}:{i}", write) for i in range(count)]))


def left(cache: Cache, name: str, count: int, tenant: str | None = None) -> int:
    return len(cache.get_many([f"{name}:{i}" for i in range(count)], tenant))


def used(cache: Cache) -> int:
    return CacheMonitor(cache).get_node().used_bytes


def test_what_is_loaded_fast_goes_before_what_is_loaded_slowly(cache: Cache) -> None:
    put(cache, "fast", 2000)
    put(cache, "slow", 2000, cost_us=100_000)
    report = cache.evict(target_bytes=used(cache) - 1_000_000)
    assert report.reason == "reached the target"
    assert 0 < report.least_worth == 2000 - left(cache, "fast", 2000)
    assert left(cache, "slow", 2000) == 2000
    assert report.freed["least_worth"] == pytest.approx(1_000_000, rel=0.4)
    assert report.freed_of == {"": report.freed["least_worth"]}


def test_what_is_large_goes_before_what_is_small(cache: Cache) -> None:
    put(cache, "large", 200, size=10_000)
    put(cache, "small", 2000, size=200)
    cache.evict(target_bytes=used(cache) - 1_000_000)
    assert left(cache, "small", 2000) == 2000


def test_what_is_read_often_stays(cache: Cache) -> None:
    put(cache, "read", 500)
    put(cache, "unread", 3000)
    for _ in range(30):
        assert left(cache, "read", 500) == 500
    cache.evict(target_bytes=used(cache) - 1_000_000)
    assert left(cache, "read", 500) == 500


def test_looking_at_entries_does_not_make_them_look_read(cache: Cache, plain: Any) -> None:
    if plain.info("server")["redis_version"] < "7.2":
        pytest.skip("this server cannot read without touching")
    put(cache, "k", 200)
    put(cache, "dear", 1, cost_us=10**8)
    name = ShardKeys("stoker").entry(None, "dear:0")
    for _ in range(50):
        CacheMonitor(cache).get_makeup()
        cache.evict(target_bytes=used(cache) - 1)
    assert plain.object("freq", name) <= 5  # what the server gives to a new one


def test_templates_say_when_theirs_go(cache: Cache) -> None:
    put(cache, "first", 1000, cost_us=10**6, turn=Turn.FIRST)
    put(cache, "normal", 1000)
    put(cache, "last", 1000, cost_us=1, turn=Turn.LAST)
    put(cache, "never", 1000, cost_us=1, turn=Turn.NEVER)
    cache.evict(target_bytes=used(cache) - 250_000)  # buffers of connections count as well
    assert left(cache, "first", 1000) < 1000
    assert left(cache, "normal", 1000) == left(cache, "last", 1000) == 1000
    report = cache.evict(target_bytes=1)
    assert "or is kept" in report.reason
    assert [left(cache, name, 1000) for name in ("first", "normal", "last", "never")] == [0, 0, 0, 1000]


def test_a_load_stores_the_turn_of_its_template(server_url: str, plain: Any) -> None:
    assert plain
    registry = Registry()
    registry.add(Loader("kept:{n}", lambda n: n, ttl=60, evict="never"))
    with Cache(CacheConfig(backend="redis", redis_url=server_url), registry=registry) as cache:
        cache.get_or_load("kept:1")
        cache.get_or_load("kept:2", lambda: 5)
        cache.warm(["kept:3"])
        cache.get_or_load("other:1", lambda: 1)
        cache.evict(target_bytes=1)
        assert list(cache.get_many(["kept:1", "kept:2", "kept:3", "other:1"])) == [
            "kept:1",
            "kept:2",
            "kept:3",
        ]
        cache.invalidate_pattern("kept:*")
        assert cache.evict(target_bytes=1).dead == 3


def test_a_turn_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ConfigError, match="choose 'never', 'last', 'normal' or 'first'"):
        Loader("k:{n}", lambda n: n, evict="sometimes")  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", ["volatile-lfu", "volatile-lru"])
def test_a_tenant_over_his_soft_quota_goes_first_down_to_it(cache: Cache, plain: Any, policy: str) -> None:
    plain.config_set("maxmemory-policy", policy)
    put(cache, "k", 2000, cost_us=10**6, tenant="noisy")
    put(cache, "k", 2000, tenant="quiet")
    CacheMonitor(cache).tell_quotas(Quotas(tenants={"noisy": Quota(soft=700_000)}), (), 60)
    report = cache.evict(target_bytes=used(cache) - 300_000)  # less than what is above the quota
    assert report.over_quota == 2000 - left(cache, "k", 2000, "noisy")
    assert report.least_worth < 100  # what a sample leaves open
    cache.evict(target_bytes=used(cache) - 700_000)
    assert left(cache, "k", 2000, "noisy") == pytest.approx(1000, rel=0.3)  # not below the quota
    assert left(cache, "k", 2000, "quiet") < 2000


@pytest.mark.parametrize("policy", ["volatile-lfu", "volatile-lru"])
def test_what_is_above_a_hard_quota_goes_without_pressure(cache: Cache, plain: Any, policy: str) -> None:
    plain.config_set("maxmemory-policy", policy)
    put(cache, "k", 2000, cost_us=10**6, tenant="noisy")
    put(cache, "k", 500, tenant="quiet")  # few: the larger a share, the better a sample knows it
    CacheMonitor(cache).tell_quotas(Quotas(Quota(hard=10**9), {"noisy": Quota(hard=700_000)}), (), 60)
    report = cache.evict()
    assert report.reason == "took from tenants what is above their quotas"
    noisy = CacheMonitor(cache).get_makeup().tenants["noisy"]
    size = left(cache, "k", 2000, "noisy") * noisy.bytes / noisy.entries
    assert size == pytest.approx(0.81 * 700_000, rel=0.25)
    assert left(cache, "k", 500, "quiet") == 500
    assert cache.evict().scanned == 0


def test_shares_are_of_what_entries_have_when_an_eviction_has_ended() -> None:
    """So ten tenants with a tenth each fit in, whatever else the server keeps in its memory."""
    assert room(700, 900, 1000, 0.8) == 600
    assert (room(5, 2000, 1000, 0.8), room(5, 20, 0, 0.8)) == (1, 0)
    tenth = Quotas(Quota(hard=0.1))
    assert over(tenth, {"a": 60, "b": 61}, 600).hard == {"b": pytest.approx(61 - 0.81 * 60)}
    assert over(tenth, {"a": 60}, 0).hard == {}


def test_who_was_full_is_so_until_he_is_well_below_where_an_eviction_takes_him() -> None:
    tenth = Quotas(Quota(hard=0.1))
    assert over(tenth, {"a": 55, "b": 55, "c": 53}, 600, full=("b", "c")).hard.keys() == {"b"}
    after = 61 - over(tenth, {"a": 61}, 600).hard["a"]
    too_little = over(tenth, {"a": round(1.1 * after)}, 600, full=("a",))
    assert not too_little.hard


def test_beside_a_tenant_above_his_quota_others_give_no_more_than_there_has_to_be_room(
    cache: Cache, plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evict, "DEEPER", (2.0, 1.5))  # a cut that would free twice as much
    put(cache, "k", 5000, tenant="quiet")
    put(cache, "k", 500, cost_us=10**6, tenant="noisy")
    CacheMonitor(cache).tell_quotas(Quotas(tenants={"noisy": Quota(hard=10_000)}), (), 60)
    at = int(used(cache) / 0.95)
    plain.config_set("maxmemory", at)
    report = cache.evict()
    assert left(cache, "k", 500, "noisy") < 100
    assert 0.75 * at < report.after_bytes <= 0.8 * at


def test_killed_after_any_page_it_takes_no_more_from_a_tenant_than_it_would_have(
    cache: Cache, plain: Any
) -> None:
    assert plain
    put(cache, "k", 2000, tenant="noisy")
    put(cache, "k", 500, tenant="quiet")
    CacheMonitor(cache).tell_quotas(Quotas(tenants={"noisy": Quota(hard=700_000)}), (), 60)
    step = next(cache.evict_steps(batch=64))
    while not step.last:
        cursor = json.loads(json.dumps(step.cursor))  # as a job keeps it; its process is killed here
        step = next(cache.evict_steps(batch=64, cursor=cursor))
    assert step.report.over_quota == step.report.dropped == 2000 - left(cache, "k", 2000, "noisy")
    assert 0.5 * 700_000 < CacheMonitor(cache).get_makeup().tenants["noisy"].bytes < 1.1 * 700_000
    assert left(cache, "k", 500, "quiet") == 500


def test_equal_entries_go_by_halves_not_all_at_once(cache: Cache) -> None:
    put(cache, "k", 4000)
    cache.evict(target_bytes=used(cache) - 1_000_000)
    assert left(cache, "k", 4000) > 2000


def test_only_entries_go(cache: Cache, plain: Any) -> None:
    keys = ShardKeys("stoker")
    put(cache, "k", 500)
    cache.invalidate_tags(["t"])
    strange = {
        keys.entry(None, "placeholder"): b"l0123456789abcdef",
        keys.entry(None, "later version"): b"Sk\x02" + bytes(100),
        keys.lease(None, "k:1"): b"l1",
        b"{stoker:0}:e:no tenant": b"x",
        b"another program's": b"x",
    }
    plain.mset(dict(strange))
    plain.rpush(keys.entry(None, "a list"), "x")
    control = [keys.ctl, keys.bans, keys.marks, keys.map]
    before = [plain.dump(name) for name in control]
    assert "or is kept" in cache.evict(target_bytes=1).reason
    assert plain.mget(list(strange)) == list(strange.values())
    assert plain.exists(keys.entry(None, "a list"))
    assert [plain.dump(name) for name in control] == before
    assert left(cache, "k", 500) == 0


def test_an_entry_that_was_filled_anew_meanwhile_stays(cache: Cache) -> None:
    put(cache, "k", 300)
    backend: Any = cache._core.backend
    steps = backend.evict_steps(1, 1000, None, 0.0)

    def during(operation: Any) -> Any:
        """Sets every key between its look and its deletion."""
        answer = yield next(operation)
        while True:
            try:
                commands = operation.send(answer)
            except StopIteration as stop:
                return stop.value
            if "DROP" in str(commands) or any(
                getattr(one, "script", None) and one.script.name == "drop" for one in commands
            ):
                put(cache, "k", 300)
            answer = yield commands

    effect = next(steps)
    while not isinstance(effect, Step):
        effect = steps.send(None if isinstance(effect, Sleep) else cache._run(during(effect)))
    assert effect.report.scanned >= 300
    assert effect.report.dropped == 0
    assert left(cache, "k", 300) == 300


def test_samples_of_a_thousand_are_within_eight_points_and_say_how_sure_they_are(
    cache: Cache, plain: Any
) -> None:
    rng = random.Random(5)
    sizes: dict[str, list[int]] = {"big": [], "many": [], "few": []}
    for tenant, count, median in (("big", 700, 800), ("many", 6000, 400), ("few", 300, 400)):
        for number in range(count):
            size = round(median * 2.718 ** rng.gauss(0, 1.2))
            put(cache, f"k{number}", 1, size=size, tenant=tenant)
            sizes[tenant].append(size + 180)
    whole = sum(map(sum, sizes.values()))
    plain.config_resetstat()
    makeups = [CacheMonitor(cache).get_makeup(1000) for _ in range(10)]
    spent = sum(one["usec"] for one in plain.info("commandstats").values()) / 10
    assert all(makeup.entries == pytest.approx(7000, rel=0.02) for makeup in makeups)
    for tenant, theirs in sizes.items():
        parts = [makeup.tenants[tenant] for makeup in makeups]
        off = [abs(part.share - sum(theirs) / whole) for part in parts]
        assert statistics.median(off) < 0.08
        beyond = sum(one > part.error for one, part in zip(off, parts, strict=True))
        assert beyond <= 4  # one in twenty is to be expected: five of ten are, once in ten thousand runs
    assert spent < 100_000


def test_the_counter_of_the_server_is_turned_into_reads() -> None:
    assert [worth.reads_of(counter) for counter in (5, 6, 7)] == [1, 2, 13]
    assert worth.reads_of(0) < worth.reads_of(4) < 1
    assert worth.reads_by_idle(0) > worth.reads_by_idle(60)


def test_a_walk_that_begins_where_a_scan_does_is_round_when_it_is_there_again() -> None:
    walk = _Walk(scan="4", start=0, cut={}, to_its_end=False, wraps=1)
    assert not walk.round, "it has seen one page"
    assert replace(walk, scan="0", wraps=2).round


def test_a_scan_goes_the_way_of_its_reversed_cursor(plain: Any) -> None:
    plain.mset({f"k{n}": n for n in range(5000)})
    cursor, ways = None, []
    while cursor != 0:
        cursor, _ = plain.scan(cursor or 0, count=100)
        ways.append(_way(cursor))
    assert ways[:-1] == sorted(ways[:-1])
    assert ways[-1] == 0


@pytest.mark.parametrize(
    ("text", "is_"),
    [("15%", 0.15), ("200MB", 200_000_000), ("1GiB", 2**30), ("4096", 4096), ("1.5 kb", 1500)],
)
def test_amounts_are_written_as_operators_write_them(text: str, is_: float) -> None:
    assert amount(text) == is_


@pytest.mark.parametrize("make", [lambda: amount("much"), lambda: Quota(hard=0), lambda: Quota(soft=1.5)])
def test_what_is_no_amount_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError, match=r"give bytes|write 15%"):
        make()


def test_on_memory_a_makeup_is_told_as_well() -> None:
    with Cache() as cache:
        cache.set_many({f"user:{n}": "x" * n for n in range(300)}, "acme")
        cache.set("k", 1)
        monitor = CacheMonitor(cache)
        makeup, node = monitor.get_makeup(), monitor.get_node()
    assert makeup.entries == 301
    assert makeup.tenants["acme"].share > 0.9
    assert set(makeup.families) == {"user", "k"}
    assert node.rss_bytes > node.used_bytes > 0
