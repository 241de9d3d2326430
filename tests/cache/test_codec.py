"""Values to bytes and back: what survives, what is refused, and what hostile bytes can do (nothing)."""

import tracemalloc
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from random import Random
from typing import Annotated, Any, NamedTuple, Protocol, TypedDict
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.cache.codec import COMPRESSED, MSGPACK, Codec, Undecodable, check_type
from stoker.cache.errors import ConfigError, ValueNotSerializable

LIMIT = 65_536


def a_codec(*, compress_above: int | None = 1000, max_value_bytes: int = LIMIT) -> Codec:
    return Codec(compress_above=compress_above, max_value_bytes=max_value_bytes)


def round_trip(value: Any, type: Any = None, *, codec: Codec | None = None) -> Any:
    codec = codec or a_codec()
    flags, payload = codec.encode("k", value)
    return codec.decode(MSGPACK, flags, memoryview(payload), type)


@dataclass
class User:
    name: str
    age: int = 0


@dataclass
class Tree:
    label: object
    children: "list[Tree]"


@dataclass
class Picky:
    age: int

    def __post_init__(self) -> None:
        if self.age < 0:
            raise RuntimeError("born in the future")


class Point(NamedTuple):
    x: int
    y: int


class Movie(TypedDict):
    title: str


class Foreign:
    """A class that msgspec knows nothing about."""


class Named(Protocol):
    name: str


# -- what survives --------------------------------------------------------------------------------------------

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary()
)
plain_data = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text("abé"), inner, max_size=5)
)


@settings(deadline=None)
@given(plain_data, st.sampled_from([0, 20, None]))
def test_plain_data_comes_back_as_it_went(value: Any, compress_above: int | None) -> None:
    assert round_trip(value, codec=a_codec(compress_above=compress_above, max_value_bytes=2**24)) == value


@pytest.mark.parametrize(
    ("value", "type"),
    [
        (User("Ada", 36), User),
        ([User("Ada")], list[User]),
        ({"a": User("Ada")}, dict[str, User]),
        (Tree(["x", 1], [Tree(None, [])]), Tree),
        (Point(1, 2), Point),
        ({"title": "Metropolis"}, Movie),
        ({1, 2}, set[int]),
        ((1, "a"), tuple[int, str]),
        (UUID(int=7), UUID),
        (date(2024, 2, 29), date),
        (datetime(2024, 2, 29, 12, 0, 1, 5, tzinfo=UTC), datetime),
        (datetime(2024, 2, 29, 12, 0), datetime),
        ({"a": [1, None]}, dict[str, object]),
        ([1, 2], Iterable[int]),
        (None, User | None),
        ({"a": 1}, Annotated[dict[str, int], ["not hashable"]]),
        (5, Any),
    ],
)
def test_a_value_comes_back_as_the_wanted_type(value: Any, type: Any) -> None:
    check_type(type)
    assert round_trip(value, type) == value


def test_without_a_type_a_dataclass_comes_back_as_plain_data() -> None:
    assert round_trip(User("Ada", 36)) == {"name": "Ada", "age": 36}


# -- compression ----------------------------------------------------------------------------------------------


def test_a_payload_is_compressed_only_above_the_threshold_and_only_if_that_makes_it_smaller() -> None:
    codec = a_codec(compress_above=1000)
    assert codec.encode("k", "a" * 997) == (0, msgspec.msgpack.encode("a" * 997))
    flags, payload = codec.encode("k", "a" * 998)
    assert flags == COMPRESSED
    assert len(payload) < 100
    noise = Random(7).randbytes(5000)
    assert codec.encode("k", noise) == (0, msgspec.msgpack.encode(noise))


def test_compression_can_be_turned_off() -> None:
    assert a_codec(compress_above=None).encode("k", "a" * 60_000)[0] == 0


# -- what cannot be stored ------------------------------------------------------------------------------------


def recursive_list() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "type_name", "reason"),
    [
        (Foreign(), "Foreign", "type Foreign"),
        ({"user": Foreign()}, "dict", "type Foreign"),
        (2**64, "int", "2\\*\\*64"),
        (-(2**63) - 1, "int", "2\\*\\*63"),
        ("\ud800", "str", "surrogate"),
        ({"\ud800": 1}, "dict", "surrogate"),
        (recursive_list(), "list", "recursion"),
        (1 + 2j, "complex", "complex"),
        ((n for n in range(3)), "generator", "generator"),
        (User, "type", "type"),
        (b"x" * LIMIT, "bytes", "exceed max_value_bytes=65536"),
    ],
)
def test_what_cannot_be_encoded_is_refused_by_key_type_and_reason(
    value: Any, type_name: str, reason: str
) -> None:
    with pytest.raises(ValueNotSerializable, match=reason) as caught:
        a_codec().encode("user:1", value)
    assert (caught.value.key, caught.value.type_name) == ("user:1", type_name)


def test_a_value_whose_own_code_raises_while_it_is_encoded_is_refused_too() -> None:
    class Nowhere(tzinfo):
        def utcoffset(self, _: datetime | None) -> timedelta:
            raise OSError("no such place")

    with pytest.raises(ValueNotSerializable, match="no such place"):
        a_codec().encode("k", datetime(2024, 1, 1, tzinfo=Nowhere()))  # type: ignore[abstract]


def test_the_largest_value_is_stored_and_read_compressed_or_not() -> None:
    value = "a" * (LIMIT - 3)
    for codec in (a_codec(compress_above=None), a_codec(compress_above=0)):
        assert round_trip(value, codec=codec) == value
        with pytest.raises(ValueNotSerializable, match="exceed max_value_bytes"):
            codec.encode("k", value + "a")


# -- what cannot be read --------------------------------------------------------------------------------------


def undecodable(flags: int, payload: bytes, type: Any = None, *, codec_id: int = MSGPACK) -> str:
    with pytest.raises(Undecodable) as caught:
        a_codec().decode(codec_id, flags, memoryview(payload), type)
    return str(caught.value)


@pytest.mark.parametrize(("codec_id", "flags"), [(0, 0), (2, 0), (255, 0), (MSGPACK, 2), (MSGPACK, 0x8001)])
def test_an_unknown_codec_or_flag_is_not_guessed_at(codec_id: int, flags: int) -> None:
    assert "not known to this version" in undecodable(flags, b"\xc0", codec_id=codec_id)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x93\x01",
        b"\x01\x02",
        b"\xd9\x02\xff\xff",
        b"\x91" * 50_000 + b"\xc0",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\x7f\xff\xff\xff",
        b"\x81\x80\x01",
        b"\xd7\xff" + b"\xff" * 8,
    ],
)
def test_corrupt_or_truncated_bytes_are_undecodable(payload: bytes) -> None:
    undecodable(0, payload)
    undecodable(COMPRESSED, zlib.compress(payload))
    undecodable(COMPRESSED, payload)


@pytest.mark.parametrize(
    "damage", [lambda z: z[:-1], lambda z: z[:-5], lambda z: z + b"x", lambda z: z[:9] + b"\0\0" + z[11:]]
)
def test_a_damaged_compressed_stream_is_undecodable(damage: Any) -> None:
    good = zlib.compress(msgspec.msgpack.encode(list(range(500))))
    undecodable(COMPRESSED, damage(good))


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from([0, COMPRESSED]), st.sampled_from([None, User, list[int]]))
def test_arbitrary_bytes_are_a_value_or_undecodable_and_nothing_else(
    payload: bytes, flags: int, type: Any
) -> None:
    codec = a_codec()
    for candidate in (payload, zlib.compress(payload)):
        try:
            codec.decode(MSGPACK, flags, candidate, type)
        except Undecodable as refusal:
            assert str(refusal)  # noqa: PT017 - both outcomes are right; only other exceptions are not


def test_what_decompresses_beyond_the_limit_is_refused_without_being_unpacked() -> None:
    bomb = zlib.compress(msgspec.msgpack.encode(b"\0" * 50_000_000), 9)
    assert len(bomb) < LIMIT
    tracemalloc.start()
    try:
        assert "more than max_value_bytes" in undecodable(COMPRESSED, bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * LIMIT


def test_a_payload_beyond_the_limit_is_refused_uncompressed_too() -> None:
    assert "exceed max_value_bytes" in undecodable(0, msgspec.msgpack.encode(b"x" * LIMIT))


@pytest.mark.parametrize(
    ("value", "type"),
    [
        ({"name": "Ada", "age": "old"}, User),
        ([1], User),
        ({"age": -1}, Picky),
        ({}, Foreign),
        ({}, Named),
        ({}, dict[str, int] | User),  # msgspec cannot tell the two apart
        ("x", "no type at all"),
    ],
)
def test_a_value_that_does_not_fit_the_type_is_undecodable(value: Any, type: Any) -> None:
    undecodable(0, msgspec.msgpack.encode(value), type)


# -- types to which nothing could be decoded ------------------------------------------------------------------


@pytest.mark.parametrize(
    "type",
    [
        Foreign,
        list[Foreign],
        dict[str, list[Foreign]],
        Foreign | None,
        Named,
        Counter,
        complex,
        dict[str, int] | User,
        "User",
        list["Nowhere"],  # type: ignore[name-defined]  # noqa: F821
        Annotated[Foreign, ["not hashable"]],
    ],
)
def test_a_type_that_no_stored_value_can_have_is_refused_with_a_remedy(type: Any) -> None:
    for _ in range(2):  # a refusal is not forgotten the second time
        with pytest.raises(ConfigError, match=r"type=.* cannot be decoded.* dataclass"):
            check_type(type)
