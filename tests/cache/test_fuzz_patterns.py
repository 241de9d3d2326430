"""Patterns against a second reading of the grammar, end to end and in what they cost.

`test_patterns` builds patterns from their meaning; here they are arbitrary text, and a parser and a matcher written
from the grammar alone say whether a text is a pattern and what it names.
"""

import time
from collections.abc import Callable, Iterator
from functools import cache

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from stoker.cache import Cache, CacheConfig, InvalidPattern
from stoker.cache.patterns import MAX_PATTERN_LENGTH, compile_pattern
from tests.fuzzing import thorough_too, tried

# -- the second reading -----------------------------------------------------------------------------------------

Class = tuple[bool, tuple[tuple[str, str], ...]]
Piece = str | Class | None
"""A literal, a class (negated?, ranges), or None for a star."""

ANY: Class = (True, ())


class NotAPattern(Exception):
    """The text is not in the grammar."""


def parsed(text: str) -> tuple[Piece, ...]:
    chars = iter(text)
    pieces = tuple(piece for char in chars for piece in [_piece(char, chars)])
    if not 0 < len(text) <= MAX_PATTERN_LENGTH or any("\ud800" <= char <= "\udfff" for char in text):
        raise NotAPattern
    return pieces


def _piece(char: str, rest: Iterator[str]) -> Piece:
    if char == "*":
        return None
    if char == "?":
        return ANY
    if char == "[":
        return _class(rest)
    return _next(rest) if char == "\\" else char


def _next(rest: Iterator[str]) -> str:
    for char in rest:
        return char
    raise NotAPattern


def _class(rest: Iterator[str]) -> Class:
    """Members up to the bracket; a raw '-' is a member in first place and a range's middle elsewhere."""
    members: list[str | None] = []  # None: a raw '-' that is not first
    negated, char = False, _next(rest)
    if char == "!":
        raise NotAPattern
    if char == "^":
        negated, char = True, _next(rest)
    while char != "]":
        members.append(_next(rest) if char == "\\" else None if char == "-" and members else char)
        char = _next(rest)
    ranges: list[tuple[str, str]] = []
    at = 0
    while at < len(members):
        low = members[at]
        high = low
        if members[at + 1 : at + 2] == [None]:
            high = members[at + 2] if at + 2 < len(members) else None
            at += 2
        if low is None or high is None or low > high:
            raise NotAPattern
        ranges.append((low, high))
        at += 1
    if not ranges:
        raise NotAPattern
    return negated, tuple(ranges)


def names(pieces: tuple[Piece, ...], key: str) -> bool:
    """Try every way, remembering which have failed."""

    @cache
    def fits(piece: int, char: int) -> bool:
        if piece == len(pieces):
            return char == len(key)
        if pieces[piece] is None:
            return fits(piece + 1, char) or (char < len(key) and fits(piece, char + 1))
        return char < len(key) and _accepts(pieces[piece], key[char]) and fits(piece + 1, char + 1)

    return fits(0, 0)


def _accepts(piece: Piece, char: str) -> bool:
    if isinstance(piece, tuple):
        return any(low <= char <= high for low, high in piece[1]) != piece[0]
    return piece == char


def meaning(text: str) -> Callable[[str], bool] | None:
    """What a text names; None if it is not in the grammar."""
    try:
        pieces = parsed(text)
    except NotAPattern:
        return None
    return lambda key: names(pieces, key)


# -- texts and keys that are hostile --------------------------------------------------------------------------------

ALPHABETS = st.sampled_from(
    [
        "ab*",
        "ab*?",
        "a*[]^-\\",
        "a-z[]0!\\^?*",
        "\0\n\r\x85\u2028.$()|+{}#&~ *[]\\",
        "\u0130\u0131Kk\u212a\u017fS*?[]-",  # what other matchers fold into one letter
        "e\u0301\u00e9\ufb01\U0001f600\U0010ffff*?[]-",
        "{}:%|@,\"'*?",
    ]
)


@st.composite
def texts_and_keys(draw: st.DrawFn) -> tuple[str, list[str]]:
    alphabet = draw(ALPHABETS)
    letters = "".join(char for char in alphabet if char not in "*?[]\\^-!") or "a"
    text = draw(st.text(alphabet, min_size=1, max_size=14))
    keys = draw(
        st.lists(st.text(letters + "-]", min_size=1, max_size=10), min_size=1, max_size=4, unique=True)
    )
    return text, keys


@thorough_too
def test_a_text_is_a_pattern_and_names_keys_as_a_second_reading_of_the_grammar_says(thorough: bool) -> None:
    @tried(thorough, 400)
    @given(
        texts_and_keys()
        | st.tuples(st.text(max_size=20), st.lists(st.text(min_size=1, max_size=8), max_size=3))
    )
    @example(("[a\\-z]", ["-", "b", "\\"]))
    @example(("[--a]", ["-", "a", "."]))
    @example(("[^-a]", ["-", "b", "a"]))
    @example(("[a-]", ["-"]))
    @example(("[^]", ["^"]))
    @example(("[a^]", ["^"]))
    @example(("[&&~~||--]", ["&"]))
    @example(("\\", ["\\"]))
    @example(("*" * (MAX_PATTERN_LENGTH + 1), ["a"]))
    def rule(case: tuple[str, list[str]]) -> None:
        text, keys = case
        named = meaning(text)
        if named is None:
            with pytest.raises(InvalidPattern):
                compile_pattern(text)
            return
        matches = compile_pattern(text)
        assert [matches(key) for key in keys] == [named(key) for key in keys]

    rule()


@thorough_too
def test_an_invalidation_kills_exactly_the_keys_that_its_pattern_names(thorough: bool) -> None:
    """End to end, so also where a pattern became the ban of a prefix or of the whole tenant."""

    @tried(thorough, 150)
    @given(st.lists(texts_and_keys(), min_size=1, max_size=4), st.sampled_from([None, "acme", "a*"]))
    @example([("a\\**", ["a*", "a*b", "ab"])], None)
    @example([("*", ["a"]), ("a", ["a", "b"])], "acme")
    def rule(cases: list[tuple[str, list[str]]], tenant: str | None) -> None:
        cache = Cache(CacheConfig())
        for text, keys in cases:
            named = meaning(text)
            for key in keys:
                cache.set(key, 1, tenant)
                cache.set(key, 1, "another")
            if named is None:
                with pytest.raises(InvalidPattern):
                    cache.invalidate_pattern(text, tenant)
            else:
                cache.invalidate_pattern(text, tenant)
            assert [key for key in keys if cache.get(key, tenant)] == [
                key for key in keys if named is None or not named(key)
            ]
            assert len(cache.get_many(keys, "another")) == len(keys)

    rule()


# -- what a match costs -----------------------------------------------------------------------------------------


def seconds(matches: Callable[[str], bool], key: str) -> float:
    """Processor time of one match, the best of several."""
    best = float("inf")
    for _ in range(3):
        began = time.process_time()
        for _ in range(5):
            matches(key)
        best = min(best, (time.process_time() - began) / 5)
    return best


@st.composite
def hostile(draw: st.DrawFn) -> str:
    """A few fragments, repeated to the longest pattern."""
    fragments = [
        "*",
        "?",
        "a",
        "*a",
        "*?",
        "a*a",
        "?a*",
        "[a]",
        "[^b]",
        "[a-z]*",
        "\\a",
        "*[ab]?",
        "[" + "a-b" * 40 + "]",
    ]
    unit = "".join(draw(st.lists(st.sampled_from(fragments), min_size=1, max_size=4)))
    assume(len(unit) <= MAX_PATTERN_LENGTH)
    end = draw(st.sampled_from(["", "b", "*b", "?b", "b*"]))
    return unit * ((MAX_PATTERN_LENGTH - len(end)) // len(unit)) + end


@thorough_too
def test_a_hostile_pattern_costs_no_more_than_its_length_times_the_keys(thorough: bool) -> None:
    """Measured against a pattern that must take as many steps: one that is compared at every place of the key."""
    key = "a" * 1024
    as_long = compile_pattern("*" + "a" * (MAX_PATTERN_LENGTH // 2 - 2) + "b*")
    bound = 40 * seconds(as_long, key)

    @tried(thorough, 40)
    @given(hostile(), st.sampled_from([key, "ab" * 512, "a" * 1023 + "b", "\U0001f600" * 1024]))
    @example("*a" * 255 + "*b", key)
    @example("*?" * 250 + "b", key)
    @example("[" + "".join(chr(0x1F600 + 2 * n) for n in range(500)) + "]*b", "\U0001f600" * 1024)
    @example("*[" + "".join(chr(0x1F600 + 2 * n) for n in range(500)) + "]b", "\U0001f600" * 1024)
    @example("[" + "a-b" * 160 + "]*" + "b", key)
    def rule(pattern: str, key: str) -> None:
        assert seconds(compile_pattern(pattern), key) < bound

    rule()


@pytest.mark.parametrize(
    "pattern", ["*a" * 255 + "*b", "*?" * 250 + "b", "*" + "[^b]" * 120 + "b", "*" + "a" * 500 + "b*"]
)
def test_a_key_of_ten_times_the_length_costs_about_ten_times_as_much(pattern: str) -> None:
    matches = compile_pattern(pattern)
    short, long = seconds(matches, "a" * 3000), seconds(matches, "a" * 30_000)
    assert long < 60 * max(
        short, 1e-5
    )  # a matcher that backtracks would take a hundred times as long, or for ever


def test_compiling_a_hostile_pattern_costs_about_as_much_as_a_plain_one() -> None:
    def compiling(pattern: str) -> float:
        best = float("inf")
        for number in range(5):
            began = time.process_time()
            compile_pattern(pattern[:-2] + f"{number:02}")
            best = min(best, time.process_time() - began)
        return best

    plain = compiling("a" * MAX_PATTERN_LENGTH)
    for unit in ("*", "*?", "*a", "[a]", "[^a-z]*", "\\*", "[\U0001f600]"):
        assert compiling(unit * (MAX_PATTERN_LENGTH // len(unit) - 2) + "00") < 60 * plain
