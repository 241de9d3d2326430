"""Many keys at once, of every kind of entry there is, are read as each alone is: on a real server.

A read of many has ways of its own to be quick, which depend on what its entries have in common.
"""

import time
from enum import Enum
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stoker.cache import Cache
from tests.cache.conftest import MakeCache
from tests.cache.planted import MISS
from tests.fuzzing import thorough_too, tried

SOFT_S = 0.001
TAGS: tuple[tuple[str, ...], ...] = ((), ("a",), ("b",), ("long-one", "a"), ("é",))
"""Of no, the same and other length; and one that is more than ASCII."""


class Kind(NamedTuple):
    """Of an entry: which tags, whether soon stale, how large, whether an invalidation comes after it."""

    tags: tuple[str, ...] = ()
    soft: bool = False
    size: int = 1
    late_ban: bool = False


PLAIN = Kind()
KINDS = st.builds(Kind, st.sampled_from(TAGS), st.booleans(), st.sampled_from([1, 300, 5000]), st.booleans())


@thorough_too
@pytest.mark.parametrize("num_shards", [1, 4])
def test_many_are_read_as_each_alone_is(make_redis: MakeCache, num_shards: int, thorough: bool) -> None:
    cache = make_redis(compress_above=1000)
    cache.reshard(num_shards)

    @tried(thorough, 10)
    @given(st.lists(st.none() | KINDS, min_size=1, max_size=12), st.sampled_from(["", "a", "k:1*", "k:[57]"]))
    @example([PLAIN, PLAIN], "")
    @example([PLAIN, None, PLAIN._replace(soft=True)], "")
    @example([PLAIN._replace(tags=TAGS[1]), PLAIN._replace(tags=TAGS[2], soft=True)], "b")
    @example([PLAIN._replace(tags=TAGS[4]), PLAIN._replace(tags=TAGS[3])], "")
    def rule(kinds: list[Kind | None], last_ban: str) -> None:
        cache.invalidate_tenant("t")
        wanted = [f"k:{number}" for number in range(len(kinds))]
        for key, kind in zip(wanted, kinds, strict=True):
            if kind is not None:
                soft_ttl = SOFT_S if kind.soft else None
                cache.set(key, {key: "v" * kind.size}, "t", 60, soft_ttl=soft_ttl, tags=kind.tags)
                if kind.late_ban:
                    cache.invalidate_pattern(f"{key}-of-nobody", "t")
        if last_ban:
            ban(cache, last_ban)
        time.sleep(2 * SOFT_S)
        alone, before = one_by_one(cache, wanted)
        many, after = at_once(cache, wanted)
        assert many == alone
        assert list(many) == list(alone)
        assert after == before

    rule()


def ban(cache: Cache, what: str) -> None:
    """By the tag, or by the pattern."""
    if what.startswith("k"):
        cache.invalidate_pattern(what, "t")
    else:
        cache.invalidate_tags([what], "t")


def one_by_one(cache: Cache, keys: list[str]) -> tuple[dict[str, Any], tuple[int, ...]]:
    """What is found, and what that adds to hits, misses and stale hits."""
    begun = counted(cache)
    values = {key: value for key in keys if (value := cache.get(key, "t", MISS)) is not MISS}
    return values, added(cache, begun)


def at_once(cache: Cache, keys: list[str]) -> tuple[dict[str, Any], tuple[int, ...]]:
    begun = counted(cache)
    return cache.get_many(keys, "t"), added(cache, begun)


def counted(cache: Cache) -> tuple[int, ...]:
    stats = cache.stats()
    return stats.hits, stats.misses, stats.stale_hits


def added(cache: Cache, begun: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(now - then for now, then in zip(counted(cache), begun, strict=True))


def test_keys_that_are_more_than_ascii_are_asked_for_as_they_are(make_redis: MakeCache) -> None:
    cache = make_redis()
    values = {"é:1": 1, "plain:2": 2, "\r\n$4\r\n": 3, "0\0": 4, "x" * 1024: 5, "語" * 341: 6}
    cache.set_many(values)
    assert cache.get_many([*values, "é:absent"]) == values
    assert cache.get_many(["\r\n$4\r\n", "0\0", "x" * 1024, "absent"]) == {
        "\r\n$4\r\n": 3,
        "0\0": 4,
        "x" * 1024: 5,
    }


class Odd(str):
    """A str that is not as long as it says."""

    def __len__(self) -> int:
        return 2


class Name(str, Enum):  # noqa: UP042 - its format is another than its text
    ADA = "ada:1"


@pytest.mark.parametrize("key", [Odd("abcdef"), Name.ADA])
def test_a_str_of_another_class_is_the_text_it_holds(make_redis: MakeCache, key: str) -> None:
    cache, text = make_redis(), "".join((key,))
    assert cache.set(key, 1)
    assert (cache.get(key), cache.get(text)) == (1, 1)
    assert cache.get_many([key, "x"]) == cache.get_many([text]) == {text: 1}
    assert cache.get_many([Odd("abc"), Odd("a"), text]) == {text: 1}  # their lengths add up
    assert cache.get_or_load(key, lambda: 2) == 1
    assert cache.delete(key)
    assert cache.get(text) is None


def test_a_key_that_is_asked_for_twice_is_read_once(make_redis: MakeCache) -> None:
    cache = make_redis()
    cache.set("a:1", 1, "t")
    assert at_once(cache, ["a:1", "b:1", "a:1", "b:1"]) == ({"a:1": 1}, (1, 1, 0))
