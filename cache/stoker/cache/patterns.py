r"""The glob grammar of `invalidate_pattern`: which keys a pattern names.

Matching is ours alone: no pattern is ever handed to Redis, whose globs work on bytes, and none to `fnmatch`,
which negates with `!` and knows no escape. What a rule does once it is known is the ban log's business.

    c        that character                [abc]    one of these
    *        any run, also an empty one    [a-z]    one of a range, ends included
    ?        exactly one character         [^x]     one that is not in the class
    \c       c itself, also inside a class

A pattern covers the whole key. A character is a Unicode code point; none is special, `:` and newline included.
In a class `-` stands for itself only when it comes first or is escaped, `!` only when it does not come first:
other glob dialects disagree about those forms, and a wrong guess would leave stale entries behind.

Time: what stands between two stars has a fixed width, so the first place where it fits is as good as any
later one, and what follows the last star can only fit at the end. Neither is ever tried twice (atomic groups,
a possessive star): a match costs at most `len(key) * len(pattern)` steps, whatever the pattern.
"""

import re
from collections.abc import Callable
from enum import Enum
from functools import lru_cache

from stoker.cache.errors import InvalidPattern

MAX_PATTERN_LENGTH = 512
"""Characters of a pattern, escapes included."""

Matcher = Callable[[str], bool]


class Kind(Enum):
    """How much a pattern asks for, from the cheapest rule to check to the dearest."""

    TENANT = "tenant"  # every key: nothing but stars
    PREFIX = "prefix"  # literal text, then a star at the end
    PATTERN = "pattern"  # everything else, also a pattern that names one key


def compile_pattern(pattern: str) -> Matcher:
    """The test whether a key is named by `pattern`. The last 1,024 patterns are remembered.

    Raises:
        InvalidPattern: It is not a str of 1 to 512 characters, or not in the grammar.
    """
    return _compiled(_checked(pattern))


def classify(pattern: str) -> tuple[Kind, str]:
    r"""The cheapest rule that says the same as `pattern`, with its argument.

    `(TENANT, "")` for `*`; `(PREFIX, "a*b")` for `a\*b*`, that is, the prefix without escapes;
    `(PATTERN, pattern)` for the rest. A run of stars counts as one.

    Raises:
        InvalidPattern: As `compile_pattern`.
    """
    return _classified(_checked(pattern))


def _checked(pattern: str) -> str:
    if not isinstance(pattern, str):
        raise InvalidPattern(repr(pattern), 0, f"must be a str, is {type(pattern).__name__}")
    if not pattern:
        raise InvalidPattern(pattern, 0, "is empty; '*' names every key")
    if len(pattern) > MAX_PATTERN_LENGTH:
        reason = f"is {len(pattern)} characters long; at most {MAX_PATTERN_LENGTH} are allowed"
        raise InvalidPattern(pattern, MAX_PATTERN_LENGTH, reason)
    try:
        pattern.encode()
    except UnicodeEncodeError as exc:
        raise InvalidPattern(pattern, exc.start, "lone surrogate; no key can hold one") from None
    return pattern


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> Matcher:
    head, *rest = _split_at_stars(_tokens(pattern))
    regex = _regex(head)
    if rest:
        *middle, tail = rest
        regex += "".join(f"(?>.*?{_regex(part)})" for part in middle if part)
        regex += f".{{{len(tail)},}}+(?<={_regex(tail)})"
    fullmatch = re.compile(regex, re.DOTALL).fullmatch
    return lambda key: fullmatch(key) is not None


@lru_cache(maxsize=1024)
def _classified(pattern: str) -> tuple[Kind, str]:
    head, *rest = _split_at_stars(_tokens(pattern))
    if not rest or any(rest) or not all(token.literal for token in head):
        return Kind.PATTERN, pattern
    prefix = "".join(token.literal for token in head)
    return (Kind.PREFIX, prefix) if prefix else (Kind.TENANT, "")


class _Token:
    """One character of the key: a literal one, or any that `regex` matches. `_STAR` stands for a run."""

    __slots__ = ("literal", "regex")

    def __init__(self, *, literal: str = "", regex: str = "") -> None:
        self.literal = literal
        self.regex = regex or re.escape(literal)


_STAR = _Token(regex=".*")
_ANY = _Token(regex=".")


def _regex(part: list[_Token]) -> str:
    return "".join(token.regex for token in part)


def _split_at_stars(tokens: list[_Token]) -> list[list[_Token]]:
    parts: list[list[_Token]] = [[]]
    for token in tokens:
        if token is _STAR:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def _tokens(pattern: str) -> list[_Token]:
    tokens: list[_Token] = []
    at = 0
    while at < len(pattern):
        match pattern[at]:
            case "*":
                tokens.append(_STAR)
                at += 1
            case "?":
                tokens.append(_ANY)
                at += 1
            case "[":
                token, at = _class(pattern, at)
                tokens.append(token)
            case _:
                char, at = _char(pattern, at)
                tokens.append(_Token(literal=char))
    return tokens


def _char(pattern: str, at: int) -> tuple[str, int]:
    """The character at `at`, unescaped, and where the next begins."""
    if pattern[at] != "\\":
        return pattern[at], at + 1
    if at + 1 == len(pattern):
        raise InvalidPattern(pattern, at, r"nothing follows the backslash; write \\ for a backslash")
    return pattern[at + 1], at + 2


def _class(pattern: str, start: int) -> tuple[_Token, int]:
    """The class whose `[` is at `start`, and where the next token begins."""
    at = start + 1
    if pattern.startswith("!", at):
        raise InvalidPattern(pattern, at, r"'!' is ambiguous; write [^...] to negate, \! for the character")
    negate = pattern.startswith("^", at)
    at += negate
    members: list[str] = []
    while at < len(pattern) and pattern[at] != "]":
        if pattern[at] == "-" and members:
            raise InvalidPattern(pattern, at, r"'-' joins no two characters; write \- for the character")
        member, at = _member(pattern, at)
        members.append(member)
    if at >= len(pattern):
        raise InvalidPattern(pattern, start, r"the class has no closing ']'; write \[ for a bracket")
    if not members:
        raise InvalidPattern(pattern, start, r"the class is empty; write \] for a bracket in it")
    return _Token(regex=f"[{'^' if negate else ''}{''.join(members)}]"), at + 1


def _member(pattern: str, at: int) -> tuple[str, int]:
    """One character or range of a class as a regex, and where the next begins."""
    start = at
    low, at = _char(pattern, at)
    if not pattern.startswith("-", at):
        return re.escape(low), at
    if at + 1 == len(pattern) or pattern[at + 1] in "-]":
        raise InvalidPattern(pattern, at, r"'-' joins no two characters; write \- for the character")
    high, at = _char(pattern, at + 1)
    if low > high:
        raise InvalidPattern(pattern, start, f"the range runs backwards from {low!r} to {high!r}")
    return f"{re.escape(low)}-{re.escape(high)}", at
