"""What stands under an entry's name or a lease's and is none of ours: payloads, other types, and what removes them.

The limits of what is promised are those of `test_fuzz_headers`.
"""

import tracemalloc
import zlib
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stoker.cache import CacheUnavailable
from stoker.cache.keys import ShardKeys
from tests.cache.planted import (
    FIELDS,
    KEY,
    LIMIT,
    LOADED,
    MISS,
    VALUE,
    Planted,
    User,
    edited,
    is_a_miss,
    planted,
    rebuilt,
)
from tests.fuzzing import thorough_too, tried

__all__ = ["planted"]

# -- payloads -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "plain", [b"\0" * 30_000_000, msgspec.msgpack.encode("a" * LIMIT), msgspec.msgpack.encode([[]] * LIMIT)]
)
def test_a_compressed_payload_beyond_the_limit_is_a_miss_and_is_not_unpacked(
    planted: Planted, plain: bytes
) -> None:
    bomb = rebuilt(planted.whole, zlib.compress(plain, 9), flags=1)
    planted.plant(bomb)
    tracemalloc.start()
    try:
        assert planted.cache.get(KEY, default=MISS) is MISS
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(bomb) * 3 + 20 * LIMIT
    is_a_miss(planted, bomb)


@thorough_too
def test_a_payload_is_the_value_it_encodes_or_a_miss(planted: Planted, thorough: bool) -> None:
    types = st.sampled_from([None, User, list[int], dict[str, float], str, bytes, float])

    @tried(thorough)
    @given(st.binary(max_size=100), st.sampled_from([0, 1]), types)
    @example(b"\xc1", 0, None)
    @example(b"\xdd\xff\xff\xff\xff", 0, None)
    @example(b"\x81\x80\x01", 0, dict[str, float])
    @example(b"\xd8" + b"\0" * 17, 0, None)
    def rule(payload: bytes, flags: int, type: Any) -> None:
        stored = zlib.compress(payload) if flags else payload
        blob = rebuilt(planted.whole, stored, flags=flags)
        try:
            value = msgspec.msgpack.decode(payload, type=type or Any)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            is_a_miss(planted, blob, type)
            return
        planted.plant(blob)
        got = planted.cache.get(KEY, default=MISS, type=type)
        assert got is not MISS
        assert msgspec.msgpack.encode(got) == msgspec.msgpack.encode(value)  # NaN is not equal to itself

    rule()


def test_a_value_of_another_type_than_the_wanted_is_a_miss_and_loaded_anew(planted: Planted) -> None:
    for value in (
        None,
        True,
        7,
        2**64 - 1,
        -(2**63),
        "text",
        b"\xff",
        [VALUE],
        {"name": 1, "langs": []},
        {1: 2},
    ):
        is_a_miss(planted, rebuilt(planted.whole, msgspec.msgpack.encode(value)), User)


# -- what removes entries ---------------------------------------------------------------------------------------


@thorough_too
def test_a_sweep_and_an_eviction_get_by_any_entries(planted: Planted, thorough: bool) -> None:
    whole = planted.whole
    damage = st.one_of(
        st.binary(max_size=400),
        st.integers(0, len(whole)).map(lambda length: whole[:length]),
        st.sampled_from(list(FIELDS)).flatmap(
            lambda field: st.binary(min_size=FIELDS[field][1], max_size=FIELDS[field][1]).map(
                lambda raw: edited(whole, **{field: raw})
            )
        ),
        st.builds(lambda extra: whole + extra, st.binary(min_size=1, max_size=10)),
    )

    @tried(thorough, 25)
    @given(st.lists(damage, max_size=30))
    def rule(blobs: list[bytes]) -> None:
        names = [planted.cache._namespaced_key(f"x:{n}") for n in range(len(blobs))]
        for name, blob in zip(names, blobs, strict=True):
            planted.client.set(name, blob, px=600_000)
        planted.cache.set(KEY, VALUE, tags=["plain"])
        assert planted.cache.sweep().complete
        assert planted.cache.get(KEY) == VALUE
        planted.cache.invalidate_tags(["plain"])
        planted.cache.sweep()
        assert planted.cache.explain(KEY)["state"] == "absent"
        planted.cache.evict(target_bytes=0)
        assert [name for name in names if planted.client.exists(name) and planted.client.strlen(name)] == []
        for name in names:
            planted.client.delete(name)

    rule()


def test_names_that_are_no_entrys_are_left_alone(planted: Planted, namespace: str) -> None:
    prefix = ShardKeys(namespace).entry_prefix.encode()
    names = [prefix, prefix + b"acme", prefix + b":", prefix + b":\xff\xfe", prefix + b"\xff:key"]
    for name in names:
        planted.client.set(name, b"not ours", px=600_000)
    planted.cache.invalidate_tenant(None)
    planted.cache.sweep()
    planted.cache.evict(target_bytes=0)
    assert [name for name in names if not planted.client.exists(name)] == []


@pytest.mark.parametrize("kind", ["list", "hash", "zset", "stream"])
def test_something_else_under_an_entrys_name_is_a_miss_and_makes_room(planted: Planted, kind: str) -> None:
    cache, client, name = planted.cache, planted.client, planted.name

    def plant() -> None:
        client.delete(name)
        match kind:
            case "list":
                client.rpush(name, planted.whole)
            case "hash":
                client.hset(name, "a", planted.whole)
            case "zset":
                client.zadd(name, {planted.whole: 1})
            case "stream":
                client.xadd(name, {"a": planted.whole})
        client.expire(name, 600)

    plant()
    assert cache.get(KEY, default=MISS) is MISS
    assert cache.get_many([KEY]) == {}
    with pytest.raises(CacheUnavailable, match="WRONGTYPE"):
        cache.explain(KEY)
    cache.invalidate_pattern("fuzz:*")
    cache.sweep()
    cache.evict(target_bytes=0)
    assert cache.get_or_load(KEY, lambda: LOADED) == LOADED
    assert cache.get(KEY) == LOADED
    for write in (lambda: cache.set(KEY, VALUE), lambda: cache.warm([KEY]), lambda: cache.delete(KEY)):
        plant()
        write()
        assert cache.explain(KEY)["state"] in ("live", "absent")


@pytest.mark.parametrize("lease", [b"", b"\xff", b"l", b"t" * 1000])
def test_a_lease_that_nobody_took_costs_no_caller_its_value(
    planted: Planted, namespace: str, lease: bytes
) -> None:
    name = ShardKeys(namespace).lease(None, "fuzz:3")
    planted.client.set(name, lease, px=50)
    assert planted.cache.get_or_load("fuzz:3", lambda: LOADED) == LOADED


def test_something_else_under_a_leases_name_costs_no_caller_its_value(
    planted: Planted, namespace: str
) -> None:
    name = ShardKeys(namespace).lease(None, KEY)
    planted.cache.delete(KEY)
    planted.client.rpush(name, "x")
    planted.client.expire(name, 600)
    assert planted.cache.get_or_load(KEY, lambda: LOADED) == LOADED
    assert planted.cache.set(KEY, VALUE)
    assert planted.cache.get(KEY) == VALUE
