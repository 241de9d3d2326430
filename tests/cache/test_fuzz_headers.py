"""Entries that no cache of this version wrote: on a real server, through every call that meets an entry.

What is promised: an entry whose structure is wrong is a miss wherever it is read, and whatever removes dead entries
gets by it. What is not: there is no checksum. Damage that leaves the structure whole (a bit of the payload, of a tag,
of a seq below the head) is as good as a write by somebody else, and is noticed only where it cannot be decoded.
"""

import struct
import tracemalloc
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stoker.cache import Cache, CacheConfig, CacheUnavailable
from stoker.cache.bans import MAX_SEQ
from stoker.cache.keys import ShardKeys
from stoker.cache.loaders import Loader, Registry
from tests.fuzzing import thorough_too, tried

Client = Any  # redis.Redis, whose annotations know sync and async answers at once

HEADER = struct.calcsize("<2sBBHH8sQ8sQQII")
FIELDS = {
    **{"magic": (0, 2), "version": (2, 1), "codec": (3, 1), "flags": (4, 2), "tags_len": (6, 2)},
    **{"incarnation": (8, 8), "seq": (16, 8), "uid": (24, 8), "soft_ms": (32, 8), "hard_ms": (40, 8)},
    **{"load_us": (48, 4), "payload_len": (52, 4)},
}
"""Offset and size of each, as docs/keys.md has them."""
EDGES = (0, 1, 2, 255, 2**16 - 1, 2**31, 2**32 - 1, 2**53 - 1, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1)
LIMIT = 8192
KEY = "fuzz:1"
VALUE: dict[str, Any] = {"name": "Ada", "langs": ["en", "fr"], "n": 1.5}
LOADED = "loaded anew"
MISS = object()


@dataclass
class User:
    name: str
    langs: list[str]
    n: float = 0.0


class Planted(NamedTuple):
    """A cache, and a whole entry of its `KEY` to damage."""

    cache: Cache
    client: Client
    name: str
    whole: bytes

    def plant(self, blob: bytes) -> None:
        self.client.set(self.name, blob, px=600_000)


@pytest.fixture
def planted(cache_server: str, namespace: str, client: Client) -> Iterator[Planted]:
    def load(number: int) -> str:  # noqa: ARG001 - the template's field
        return LOADED

    registry = Registry()
    registry.add(Loader("fuzz:{number}", load))
    config = CacheConfig(
        backend="redis",
        redis_url=cache_server,
        namespace=namespace,
        max_value_bytes=LIMIT,
        compress_above=1000,
    )
    with Cache(config, registry=registry) as cache:
        cache.set(KEY, VALUE, tags=["plain", "é"])
        name = cache._namespaced_key(KEY)
        yield Planted(cache, client, name, client.get(name))


def edited(whole: bytes, **fields: int | bytes) -> bytes:
    """The entry with some header fields replaced."""
    for field, value in fields.items():
        offset, size = FIELDS[field]
        raw = value if isinstance(value, bytes) else value.to_bytes(size, "little")
        whole = whole[:offset] + raw + whole[offset + size :]
    return whole


def rebuilt(whole: bytes, payload: bytes, *, tags: bytes = b"", **fields: int | bytes) -> bytes:
    """An entry with other tags and payload, which its header agrees with."""
    lengths = {"tags_len": len(tags), "payload_len": len(payload)}
    return edited(whole, **{**lengths, **fields})[:HEADER] + tags + payload


def is_a_miss(planted: Planted, blob: bytes, type: Any = None) -> None:
    """Every read misses; a load, and a warm, put a good entry in its place."""
    cache = planted.cache
    planted.plant(blob)
    assert cache.get(KEY, default=MISS, type=type) is MISS
    assert cache.get_many([KEY, "fuzz:2"], type=type) == {}
    assert cache.explain(KEY)["state"] != "absent"
    assert cache.get_or_load(KEY, lambda: VALUE, type=type) == VALUE
    assert cache.get(KEY) == VALUE
    if type is None:
        planted.plant(blob)
        assert cache.warm([KEY]).written == 1
        assert cache.get(KEY) == LOADED


def is_served(planted: Planted, blob: bytes) -> None:
    """Every read finds the value as it was stored."""
    cache = planted.cache
    planted.plant(blob)
    assert cache.get(KEY, default=MISS) == VALUE
    assert cache.get(KEY, type=User) == User(**VALUE)
    assert cache.get_many([KEY]) == {KEY: VALUE}
    assert cache.explain(KEY)["state"] == "live"


def test_an_entry_cut_off_at_any_byte_is_a_miss(planted: Planted) -> None:
    is_served(planted, planted.whole)
    for length in range(len(planted.whole)):
        is_a_miss(planted, planted.whole[:length])


@thorough_too
def test_garbage_is_a_miss(planted: Planted, thorough: bool) -> None:
    @tried(thorough)
    @given(st.binary(max_size=400), st.sampled_from([0, 2, 4, 16, HEADER]))
    def rule(noise: bytes, kept: int) -> None:
        if (blob := planted.whole[:kept] + noise) != planted.whole:
            is_a_miss(planted, blob)

    rule()


@pytest.mark.parametrize("field", ["magic", "version", "codec", "incarnation", "tags_len", "payload_len"])
@thorough_too
def test_an_entry_of_another_format_codec_life_or_length_is_a_miss(
    planted: Planted, field: str, thorough: bool
) -> None:
    offset, size = FIELDS[field]
    own = planted.whole[offset : offset + size]
    edges = [value for value in EDGES if value < 256**size]

    @tried(thorough, 40)
    @given(st.sampled_from(edges) | st.integers(0, 256**size - 1))
    def rule(value: int) -> None:
        if value.to_bytes(size, "little") != own:
            is_a_miss(planted, edited(planted.whole, **{field: value}))

    rule()


@thorough_too
def test_an_entry_with_a_flag_that_this_version_does_not_know_is_a_miss(
    planted: Planted, thorough: bool
) -> None:
    @tried(thorough, 50)
    @given(st.integers(1, 2**16 - 1))
    def rule(flags: int) -> None:  # 1 says compressed, and this payload is not
        is_a_miss(planted, edited(planted.whole, flags=flags))

    rule()


@pytest.mark.parametrize("seq", [MAX_SEQ + 1, MAX_SEQ + 2, 2**63 - 1, 2**63, 2**64 - 1])
def test_an_entry_above_every_seq_that_a_ban_can_have_is_a_miss(planted: Planted, seq: int) -> None:
    """No ban would ever kill it."""
    is_a_miss(planted, edited(planted.whole, seq=seq))


@thorough_too
def test_any_time_cost_or_uid_leaves_the_value_as_it_is(planted: Planted, thorough: bool) -> None:
    longs = st.sampled_from(EDGES) | st.integers(0, 2**64 - 1)

    @tried(thorough, 80)
    @given(longs, longs, longs, st.integers(0, 2**32 - 1), st.booleans())
    @example(2**64 - 1, 2**64 - 1, 2**64 - 1, 2**32 - 1, True)
    def rule(soft_ms: int, hard_ms: int, uid: int, load_us: int, warmed: bool) -> None:
        blob = edited(planted.whole, soft_ms=soft_ms, hard_ms=hard_ms, uid=uid, load_us=load_us)
        is_served(planted, blob)
        if warmed:
            planted.cache.warm([KEY])
            assert planted.cache.get(KEY) in (VALUE, LOADED)
        else:
            assert planted.cache.get_or_load(KEY, lambda: VALUE) == VALUE

    rule()


def test_no_single_bit_of_the_header_changes_the_value_or_fails_a_read(planted: Planted) -> None:
    """A bit of the seq is the exception: it moves the entry in the ban log, see the module's docstring."""
    for bit in range(8 * len(planted.whole)):
        blob = bytearray(planted.whole)
        blob[bit // 8] ^= 1 << bit % 8
        planted.plant(bytes(blob))
        found = planted.cache.get(KEY, default=MISS)
        many = planted.cache.get_many([KEY])
        assert repr(many) == repr({} if found is MISS else {KEY: found})  # NaN is not equal to itself
        if bit // 8 < HEADER:
            field = next(name for name, (at, size) in FIELDS.items() if at <= bit // 8 < at + size)
            harmless = field in ("soft_ms", "hard_ms", "uid", "load_us")
            assert found == VALUE if harmless else field == "seq" or found is MISS, (field, bit)


@thorough_too
def test_tags_that_are_no_utf8_are_a_miss_and_swept(planted: Planted, thorough: bool) -> None:
    bad = st.builds(lambda some, more: some + b"\xff" + more, st.binary(max_size=30), st.binary(max_size=30))

    @tried(thorough, 30)
    @given(bad | st.just(b"\xed\xa0\x80") | st.just(b"plain\0\xc3") | st.just(b"\xff" * (2**16 - 1)))
    def rule(tags: bytes) -> None:
        blob = rebuilt(planted.whole, msgspec.msgpack.encode(VALUE), tags=tags)
        is_a_miss(planted, blob)
        planted.plant(blob)
        planted.cache.sweep()
        assert planted.cache.explain(KEY)["state"] == "absent"

    rule()


def test_tags_that_nobody_could_have_given_are_harmless(planted: Planted) -> None:
    payload = msgspec.msgpack.encode(VALUE)
    for tags in (b"\0", b"\0" * 300, b"t" * 5000, b"\0".join(b"%d" % n for n in range(9000))):
        is_served(planted, rebuilt(planted.whole, payload, tags=tags))
        planted.cache.invalidate_tags(["another"])
        assert planted.cache.get(KEY) == VALUE
        planted.cache.sweep()
        assert planted.cache.get(KEY) == VALUE


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
    def rule(payload: bytes, flags: int, type: Any) -> None:
        stored = zlib.compress(payload) if flags else payload
        blob = rebuilt(planted.whole, stored, flags=flags)
        try:
            value = msgspec.msgpack.decode(payload, type=type or Any)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            is_a_miss(planted, blob, type)
            return
        planted.plant(blob)
        assert repr(planted.cache.get(KEY, default=MISS, type=type)) == repr(
            value
        )  # NaN is not equal to itself

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
