"""The glob grammar: what a pattern names, what it costs, and what is refused."""

import time
from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stoker.cache.errors import InvalidPattern
from stoker.cache.patterns import MAX_PATTERN_LENGTH, Kind, classify, compile_pattern

# -- an independent matcher: patterns are made from their meaning, so it needs no parser ------------------------

ALPHABET = "ab:-^!*?[]\\\n.é😀"
SPECIAL = "*?[\\"


@dataclass(frozen=True)
class One:
    """A piece of a pattern that stands for one character, and which of the alphabet it accepts."""

    text: str
    accepted: frozenset[str]
    negated: bool = False

    def accepts(self, char: str) -> bool:
        return (char in self.accepted) != self.negated


STAR = None
ANY = One("?", frozenset(), negated=True)


def literal(char: str, *, escape: bool) -> One:
    return One(f"\\{char}" if escape or char in SPECIAL else char, frozenset(char))


def char_class(ranges: list[tuple[str, str]], *, negated: bool) -> One:
    text, accepted = "", set[str]()
    for one, two in ranges:
        low, high = min(one, two), max(one, two)
        text += f"\\{low}" if low == high else f"\\{low}-\\{high}"
        accepted |= {char for char in ALPHABET if low <= char <= high}
    return One(f"[{'^' if negated else ''}{text}]", frozenset(accepted), negated)


chars = st.sampled_from(ALPHABET)
pieces = st.one_of(
    st.just(STAR),
    st.just(ANY),
    st.builds(literal, chars, escape=st.booleans()),
    st.builds(char_class, st.lists(st.tuples(chars, chars), min_size=1, max_size=3), negated=st.booleans()),
)


def names(pattern: list[One | None], key: str) -> bool:
    """Row by row: which prefixes of the pattern match which prefixes of the key."""
    row = [True] + [False] * len(key)
    for piece in pattern:
        if piece is None:
            first = row.index(True) if True in row else len(row)
            row = [at >= first for at in range(len(row))]
        else:
            row = [False] + [fits and piece.accepts(char) for fits, char in zip(row, key, strict=False)]
    return row[-1]


def text_of(pattern: list[One | None]) -> str:
    return "".join("*" if piece is None else piece.text for piece in pattern)


@settings(deadline=None)  # machines are shared
@given(st.lists(pieces, min_size=1, max_size=8), st.text(ALPHABET, max_size=12))
@example(
    [STAR, *[literal(c, escape=False) for c in "ab"], STAR, *[literal(c, escape=False) for c in "ba"]], "aba"
)
def test_a_pattern_names_the_keys_that_an_independent_matcher_says(
    pattern: list[One | None], key: str
) -> None:
    assert compile_pattern(text_of(pattern))(key) is names(pattern, key)


@settings(deadline=None)
@given(st.lists(pieces, min_size=1, max_size=8), st.text(ALPHABET, max_size=12))
def test_the_rule_of_a_pattern_names_the_same_keys(pattern: list[One | None], key: str) -> None:
    text = text_of(pattern)
    kind, argument = classify(text)
    by_rule = {
        Kind.TENANT: True,
        Kind.PREFIX: key.startswith(argument),
        Kind.PATTERN: compile_pattern(text)(key),
    }
    assert by_rule[kind] is names(pattern, key)
    only_literals_and_a_star = STAR in pattern and all(
        piece is not None and len(piece.accepted) == 1 and piece.text[0] != "["
        for piece in pattern[: pattern.index(STAR)]
    )
    cheap = only_literals_and_a_star and set(pattern[pattern.index(STAR) :]) == {STAR}
    assert (kind is not Kind.PATTERN) is cheap


@settings(deadline=None)
@given(st.text(max_size=20) | st.text(ALPHABET, max_size=10))
def test_any_text_either_is_a_pattern_or_is_refused_with_a_position_in_it(text: str) -> None:
    refusal = None
    try:
        compile_pattern(text)("user:1")
    except InvalidPattern as error:
        refusal = error
    if refusal is None:
        assert classify(text)[0] in Kind
    else:
        assert 0 <= refusal.position <= len(text)
        with pytest.raises(InvalidPattern, match=r"position \d+: \S"):
            classify(text)


@pytest.mark.parametrize(
    ("pattern", "named", "not_named"),
    [
        ("user:7", ["user:7"], ["user:70", "xuser:7", "user:7\n"]),
        ("user:*", ["user:", "user:7:posts", "user:\n"], ["users", "User:7"]),
        ("*:posts", ["user:7:posts", ":posts"], ["posts", "user:7:posts:1"]),
        ("user:*:posts:*", ["user:7:posts:1", "user:7:8:posts:"], ["user:posts:1"]),
        ("user:?", ["user:7", "user:é", "user:😀", "user:\n"], ["user:", "user:77"]),
        ("user:[0-9]", ["user:0", "user:9"], ["user:a", "user:-"]),
        ("user:[abc]", ["user:b"], ["user:d"]),
        ("user:[^0-9]", ["user:a", "user:é", "user:\n"], ["user:5", "user:"]),
        ("caf[é-ü]", ["cafê"], ["cafe"]),
        ("[\\]a\\-z]", ["]", "a", "-", "z"], ["b", "\\"]),
        ("[-a]", ["-", "a"], ["b"]),
        ("[^-a]", ["b"], ["-", "a"]),
        ("[a^!]", ["a", "^", "!"], ["b"]),
        ("[[]", ["["], ["]"]),
        ("a]", ["a]"], ["a"]),
        ("\\*\\?\\[\\\\", ["*?[\\"], ["a?[\\"]),
        ("a.c+", ["a.c+"], ["abc+", "a.cc"]),
        ("**a**", ["a", "xax"], ["b"]),
    ],
)
def test_each_form_of_the_grammar(pattern: str, named: list[str], not_named: list[str]) -> None:
    matches = compile_pattern(pattern)
    assert [key for key in named if not matches(key)] == []
    assert [key for key in not_named if matches(key)] == []


@pytest.mark.parametrize(
    ("pattern", "position", "reason"),
    [
        ("", 0, "empty"),
        ("user:\\", 5, "backslash"),
        ("[\\", 1, "backslash"),
        ("user:[abc", 5, "no closing"),
        ("user:[a\\]", 5, "no closing"),
        ("[", 0, "no closing"),
        ("[]", 0, "empty"),
        ("[^]", 0, "empty"),
        ("[]a]", 0, "empty"),
        ("[z-a]", 1, "backwards"),
        ("a[bz-a]", 3, "backwards"),
        ("[x-]", 2, "joins no two"),
        ("[x-", 2, "joins no two"),
        ("[a-c-e]", 4, "joins no two"),
        ("[+--]", 2, "joins no two"),
        ("[!0-9]", 1, "ambiguous"),
        ("user:\ud800", 5, "surrogate"),
        ("a" * (MAX_PATTERN_LENGTH + 1), MAX_PATTERN_LENGTH, "513 characters"),
    ],
)
def test_what_is_not_in_the_grammar_is_refused_with_its_position(
    pattern: str, position: int, reason: str
) -> None:
    for use in (compile_pattern, classify):
        with pytest.raises(InvalidPattern, match=reason) as caught:
            use(pattern)
        assert (caught.value.pattern, caught.value.position) == (pattern, position)


@pytest.mark.parametrize("pattern", [None, 7, b"user:*", ["user:*"]])
def test_only_a_str_is_a_pattern(pattern: object) -> None:
    with pytest.raises(InvalidPattern, match="must be a str"):
        compile_pattern(pattern)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pattern", "rule"),
    [
        ("*", (Kind.TENANT, "")),
        ("***", (Kind.TENANT, "")),
        ("user:*", (Kind.PREFIX, "user:")),
        ("user:**", (Kind.PREFIX, "user:")),
        ("a\\*b\\[*", (Kind.PREFIX, "a*b[")),
        ("é*", (Kind.PREFIX, "é")),
        ("user:7", (Kind.PATTERN, "user:7")),
        ("user:\\*", (Kind.PATTERN, "user:\\*")),
        ("*7", (Kind.PATTERN, "*7")),
        ("user:*:*", (Kind.PATTERN, "user:*:*")),
        ("user:?*", (Kind.PATTERN, "user:?*")),
        ("[u]ser:*", (Kind.PATTERN, "[u]ser:*")),
    ],
)
def test_the_cheapest_rule_is_chosen(pattern: str, rule: tuple[Kind, str]) -> None:
    assert classify(pattern) == rule


@pytest.mark.parametrize(
    ("pattern", "key"),
    [
        ("*a" * 255 + "*b", "a" * 1024),
        ("*" + "a" * 254 + "b*", "a" * 1024),
        ("*" + "a" * 200 + "b*" + "a" * 200 + "*", "a" * 1024),
        ("*" + "a" * 510, "a" * 1023 + "b"),
        ("*" + "?a" * 127 + "b*", "a" * 1024),
        ("*" + "[a-c]" * 100 + "b*", "a" * 1024),
        ("*" + "[^b]" * 100 + "b", "a" * 1024),
        ("*?" * 250 + "b", "a" * 1024),
    ],
)
def test_no_pattern_takes_long_on_the_longest_key(pattern: str, key: str) -> None:
    matches = compile_pattern(pattern)
    started = time.process_time()
    assert not matches(key)
    # backtracking would take longer than the universe; the bound is generous for a loaded machine
    assert time.process_time() - started < 0.1


def test_the_longest_pattern_is_accepted() -> None:
    assert compile_pattern("a" * MAX_PATTERN_LENGTH)("a" * MAX_PATTERN_LENGTH)


def test_a_pattern_is_compiled_once() -> None:
    assert compile_pattern("user:[0-9]*") is compile_pattern("user:[0-9]*")
