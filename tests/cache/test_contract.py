"""What a cache does, whatever its backend."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from stoker.cache import Cache, CacheMechanism, InvalidName, InvalidPattern, LoaderError, ValueNotSerializable
from tests.cache.conftest import MakeCache
from tests.waiting import wait_until


@dataclass
class User:
    name: str
    age: int


def test_a_value_comes_back_under_its_key(cache: Cache) -> None:
    assert cache.set("user:1", {"name": "Ada"}) is True
    assert cache.get("user:1") == {"name": "Ada"}


def test_a_miss_is_none_or_the_default(cache: Cache) -> None:
    assert cache.get("user:1") is None
    assert cache.get("user:1", default="nobody") == "nobody"


@pytest.mark.parametrize(
    "value", [None, False, 0, "", b"", [], {}, 1.5, 2**63, -(2**63), "é\0", b"\xff", [1, [2]]]
)
def test_plain_values_come_back_as_they_were(cache: Cache, value: object) -> None:
    cache.set("k", value)
    assert cache.get("k", default="miss") == value


def test_the_guides_positions_of_set_are_key_value_tenant_ttl(cache: Cache) -> None:
    cache.set("user:1", "Ada", "acme", 60)
    assert cache.get("user:1", "acme") == "Ada"
    assert cache.get("user:1") is None
    assert CacheMechanism is Cache


def test_many_values_are_read_and_written_together(make_cache: MakeCache) -> None:
    cache = make_cache(max_size=2500)
    values = {f"k{i}": i for i in range(2500)}
    assert cache.set_many(values, tenant_id="acme") is True
    found = cache.get_many(["k2499", "absent", "k0", "k0"], tenant_id="acme")
    assert found == {"k2499": 2499, "k0": 0}
    assert list(found) == ["k2499", "k0"]
    assert cache.get_many(values, tenant_id="acme") == values


def test_an_entry_ends_with_its_ttl(cache: Cache) -> None:
    cache.set("short", 1, ttl=0.05)
    cache.set("long", 2, ttl=60)
    wait_until(lambda: cache.get("short") is None)
    assert cache.get("long") == 2


def test_without_a_ttl_the_default_holds_and_none_keeps_for_ever(make_cache: MakeCache) -> None:
    brief = make_cache(default_ttl=0.05)
    brief.set("k", 1)
    wait_until(lambda: brief.get("k") is None)
    forever = make_cache(default_ttl=None)
    forever.set("k", 1)
    assert forever.explain("k")["ttl_ms"] is None


def test_delete_tells_whether_there_was_something(cache: Cache) -> None:
    cache.set("k", 1)
    assert cache.delete("k") is True
    assert cache.delete("k") is False
    assert cache.get("k") is None


def test_an_invalidated_tag_takes_every_entry_that_carries_it(cache: Cache) -> None:
    cache.set("a", 1, tags=["red", "round"])
    cache.set("b", 2, tags=["blue"])
    cache.set("c", 3)
    cache.invalidate_tags(["red", "green"])
    assert cache.get_many(["a", "b", "c"]) == {"b": 2, "c": 3}


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("user:*", {"post:1"}),
        ("user:?", {"post:1", "user:10"}),
        ("*:1", {"user:2", "user:10"}),
        ("user:[12]", {"post:1", "user:10"}),
        ("user:[^1]", {"post:1", "user:1", "user:10"}),
        ("user:1", {"post:1", "user:2", "user:10"}),
        (r"user:\*", {"post:1", "user:1", "user:2", "user:10"}),
        ("*", set()),
    ],
)
def test_an_invalidated_pattern_takes_the_keys_it_names(cache: Cache, pattern: str, left: set[str]) -> None:
    keys = ["post:1", "user:1", "user:2", "user:10"]
    cache.set_many(dict.fromkeys(keys, 0))
    cache.invalidate_pattern(pattern)
    assert set(cache.get_many(keys)) == left


def test_no_key_reads_or_changes_what_is_another_tenants(cache: Cache) -> None:
    """Not one either that looks like a tenant and a key, as they may stand together in a table."""
    cache.set("k", 1, "acme")
    assert cache.get("k", "acme") == 1
    pair: Any = ("acme", "k")
    for use in (
        cache.get,
        cache.delete,
        lambda key: cache.set(key, 2),
        lambda key: cache.get_or_load(key, dict),
    ):
        with pytest.raises(InvalidName, match="must be a str"):
            use(pair)
    assert cache.get("k", "acme") == 1


def test_an_invalidated_tenant_loses_everything_and_no_other_does(cache: Cache) -> None:
    for tenant in (None, "acme", "globex"):
        cache.set("k", 1, tenant)
    cache.invalidate_tenant("acme")
    assert [cache.get("k", t) for t in (None, "acme", "globex")] == [1, None, 1]
    cache.invalidate_tenant(None)
    assert [cache.get("k", t) for t in (None, "acme", "globex")] == [None, None, 1]


def test_what_is_stored_after_an_invalidation_stays(cache: Cache) -> None:
    cache.invalidate_pattern("k*")
    cache.set("k1", 1)
    assert cache.get("k1") == 1
    assert cache.get_or_load("k2", lambda: 2) == 2
    assert cache.get("k2") == 2


def test_a_loaded_value_is_stored_and_loaded_once(cache: Cache) -> None:
    calls = []
    for _ in range(3):
        assert cache.get_or_load("k", lambda: calls.append(1), tags=["t"]) is None
    assert len(calls) == 1


def test_a_failing_loader_fails_its_caller_and_stores_nothing(cache: Cache) -> None:
    def fail() -> None:
        raise RuntimeError("the database is on fire")

    with pytest.raises(RuntimeError, match="on fire"):
        cache.get_or_load("k", fail)
    assert cache.get_or_load("k", lambda: 1) == 1
    assert cache.stats().load_errors == 1


def test_get_or_load_without_any_loader_says_what_to_do(cache: Cache) -> None:
    with pytest.raises(LoaderError, match="register one with @loader"):
        cache.get_or_load("nobody:loads:this")


@pytest.mark.parametrize("invalidate", ["key", "pattern", "prefix", "tag", "tenant"])
def test_an_invalidation_during_a_load_keeps_its_value_out(cache: Cache, invalidate: str) -> None:
    how: dict[str, Callable[[], object]] = {
        "key": lambda: cache.delete("user:1", "acme"),
        "pattern": lambda: cache.invalidate_pattern("*:1", "acme"),
        "prefix": lambda: cache.invalidate_pattern("user:*", "acme"),
        "tag": lambda: cache.invalidate_tags(["users"], "acme"),
        "tenant": lambda: cache.invalidate_tenant("acme"),
    }

    def load() -> str:
        how[invalidate]()
        return "old"

    assert cache.get_or_load("user:1", load, "acme", tags=["users"]) == "old"
    assert cache.get("user:1", "acme") is None
    assert cache.stats().refused_fills == 1


def test_a_set_during_a_load_wins(cache: Cache) -> None:
    def load() -> str:
        cache.set("k", "new")
        return "old"

    assert cache.get_or_load("k", load) == "old"
    assert cache.get("k") == "new"


def test_a_token_stores_what_nothing_has_invalidated(cache: Cache) -> None:
    token = cache.snapshot("report:9", "acme", hold=30)
    assert cache.set("report:9", 1, "acme", token=token) is True
    assert cache.get("report:9", "acme") == 1
    assert cache.set("report:9", 2, "acme", token=token) is False  # a token is good once


@pytest.mark.parametrize("change", ["delete", "pattern", "tag", "set", "snapshot"])
def test_a_token_notices_what_came_between(cache: Cache, change: str) -> None:
    token = cache.snapshot("report:9")
    match change:
        case "delete":
            cache.delete("report:9")
        case "pattern":
            cache.invalidate_pattern("report:*")
        case "tag":
            cache.invalidate_tags(["reports"])
        case "set":
            cache.set("report:9", "newer")
        case "snapshot":
            cache.snapshot("report:9")
    assert cache.set("report:9", "old", tags=["reports"], token=token) is False
    assert cache.get("report:9") == ("newer" if change == "set" else None)


def test_a_token_ends_with_its_hold(cache: Cache) -> None:
    token = cache.snapshot("k", hold=0.05)
    wait_until(lambda: cache.explain("k")["lease_ms"] is None)
    assert cache.set("k", 1, token=token) is False


def test_a_token_is_good_for_its_own_key_only(cache: Cache) -> None:
    token = cache.snapshot("k", "acme")
    with pytest.raises(InvalidName, match="another key"):
        cache.set("k", 1, token=token)
    assert "secret" not in repr(token)


def test_readers_do_not_wait_for_a_token(cache: Cache) -> None:
    token = cache.snapshot("k", hold=30)
    assert cache.get_or_load("k", lambda: "mine") == "mine"
    assert cache.get("k") is None  # loaded, not stored: the token's holder will
    assert cache.set("k", "computed", token=token) is True


def test_past_its_soft_ttl_a_value_is_served_and_loaded_anew(cache: Cache) -> None:
    versions = iter(range(10))
    assert cache.get_or_load("k", lambda: next(versions), soft_ttl=0.05) == 0
    wait_until(lambda: cache.get_or_load("k", lambda: next(versions), soft_ttl=30) == 1)
    assert cache.stats().stale_hits >= 1


def test_a_typed_read_gives_the_type(make_cache: MakeCache) -> None:
    cache = make_cache()
    cache.set("u", User("Ada", 36))
    assert cache.get("u", type=User) == User("Ada", 36)
    assert cache.get_many(["u"], type=User) == {"u": User("Ada", 36)}


def test_sweeping_removes_the_dead_and_then_forgets_the_bans(make_cache: MakeCache) -> None:
    cache = make_cache(max_load=0.1, lease=0.1)
    cache.set_many({f"user:{i}": i for i in range(100)}, tags=["t"])
    cache.set_many({f"post:{i}": i for i in range(100)})
    cache.invalidate_pattern("user:*")
    report = cache.sweep()
    assert (report.deleted, report.complete) == (100, True)
    wait_until(lambda: cache.sweep().complete and cache.explain("post:1")["bans"] == 0)
    assert len(cache.get_many([f"post:{i}" for i in range(100)])) == 100


def test_counts_tell_hits_from_misses(cache: Cache) -> None:
    cache.set("a", 1)
    cache.get("a")
    cache.get("b")
    cache.get_many(["a", "b", "c"])
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.sets, stats.hit_rate) == (2, 3, 1, 0.4)


def test_matching_finds_what_an_invalidation_would_kill_and_nothing_else(cache: Cache) -> None:
    for tenant in ("acme", "globex", None):
        cache.set_many({f"user:{n}": n for n in range(30)}, tenant, tags=["users"])
        cache.set_many({"post:1": 1, "post:[1]": 1}, tenant, tags=["posts", "users"])
    cache.invalidate_pattern("user:1?", "acme")  # what is dead already is not counted
    all_users = cache.matching("user:*", tenant_id="acme")
    assert all_users.entries == 20
    assert len(all_users.examples) == 10
    assert set(all_users.examples) < {f"user:{n}" for n in range(30)}
    assert cache.matching("*:?", tenant_id="acme").entries == 11
    assert cache.matching("user:7", tenant_id="acme").examples == ("user:7",)
    assert cache.matching(r"post:\[*", tenant_id="globex").examples == ("post:[1]",)
    assert cache.matching(tags=["posts", "none"], tenant_id="acme").entries == 2
    assert cache.matching("user:2", tags=["posts"], tenant_id="acme").entries == 3
    assert cache.matching(tenant_id="acme").entries == 22
    assert cache.matching().entries == 32
    assert cache.matching("nothing:*").entries == cache.matching(tenant_id="nobody").entries == 0
    with pytest.raises(InvalidPattern):
        cache.matching("user:[")
    assert cache.get("user:7", "acme") == 7  # nothing was invalidated


def test_explain_tells_live_from_banned_from_absent(cache: Cache) -> None:
    cache.set("k", 1, tags=["t"])
    assert cache.explain("k")["state"] == "live"
    cache.invalidate_tags(["t"])
    assert cache.explain("k")["state"] == "banned"
    assert cache.explain("other")["state"] == "absent"


def test_it_answers_a_ping_and_closes_twice(cache: Cache) -> None:
    assert cache.ping() is True
    cache.close()
    cache.close()


def test_threads_may_share_a_cache(cache: Cache) -> None:
    wrong = []

    def work(n: int) -> None:
        for i in range(100):
            key = f"k{(n + i) % 7}"
            if cache.get_or_load(key, partial(str, key)) != key:
                wrong.append(key)
            if i % 10 == 0:
                cache.delete(key)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_value_that_cannot_be_encoded_leaves_the_old_one(make_redis: MakeCache) -> None:
    cache = make_redis()
    cache.set("k", "old")
    with pytest.raises(ValueNotSerializable, match=r"key 'k' \(object\).*Store None, bool"):
        cache.set("k", object())
    assert cache.get("k") == "old"


def test_a_loaded_value_is_returned_though_it_cannot_be_stored(
    make_redis: MakeCache, caplog: pytest.LogCaptureFixture
) -> None:
    cache = make_redis()
    value = object()
    assert cache.get_or_load("other", lambda: value) is value
    assert "returned but not stored: value of key 'other'" in caplog.text
    assert cache.stats().refused_fills == 1
    assert cache.get_or_load("other", lambda: 1) == 1  # the lease was given back
