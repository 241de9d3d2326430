"""Entries that no cache of this version wrote: on a real server, through every call that meets an entry.

What is promised: an entry whose structure is wrong is a miss wherever it is read, and whatever removes dead entries
gets by it. What is not: there is no checksum. Damage that leaves the structure whole (a bit of the payload, of a tag,
of a seq below the head) is as good as a write by somebody else, and is noticed only where it cannot be decoded.
"""

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stoker.cache.entry import KEEP_SHIFT, MAX_SEQ
from tests.cache.planted import (
    EDGES,
    FIELDS,
    HEADER,
    KEY,
    LOADED,
    MISS,
    VALUE,
    Planted,
    edited,
    is_a_miss,
    is_served,
    planted,
    rebuilt,
)
from tests.fuzzing import thorough_too, tried

__all__ = ["planted"]


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
    @given(st.integers(1, 2**16 - 1).filter(lambda flags: flags % 2**KEEP_SHIFT))
    def rule(flags: int) -> None:  # 1 says compressed, and this payload is not
        is_a_miss(planted, edited(planted.whole, flags=flags))

    rule()


@pytest.mark.parametrize("seq", [MAX_SEQ + 1, MAX_SEQ + 2, 2**63 - 1, 2**63, 2**64 - 1])
def test_an_entry_above_every_seq_that_a_ban_can_have_is_a_miss(planted: Planted, seq: int) -> None:
    """No ban would ever kill it."""
    is_a_miss(planted, edited(planted.whole, seq=seq))


@pytest.mark.parametrize("seq", [2, 3, 2**32, MAX_SEQ - 1, MAX_SEQ])
def test_an_entry_above_the_head_was_stamped_by_nobody_and_is_a_miss(planted: Planted, seq: int) -> None:
    """The next ban would not kill it."""
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
            turn = 8 * FIELDS["flags"][0] + KEEP_SHIFT  # two bits of the flags say when it is evicted
            harmless = field in ("soft_ms", "hard_ms", "uid", "load_us") or bit in (turn, turn + 1)
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
