"""Which type a cached function's results are decoded to, and what a type checker sees of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, assert_type

import pytest

from stoker.cache.errors import LoaderError
from tests.cache.test_cached import RecordingCache, Repository, User, cached, get_user


@pytest.fixture(name="cache")
def a_cache() -> RecordingCache:
    return RecordingCache()


class Foreign:
    pass


def returns_list(one: int) -> list[User]: ...  # type: ignore[empty-body]
def returns_later(one: int) -> "Later": ...  # type: ignore[empty-body]
def returns_any(one: int) -> Any: ...
def returns_none(one: int) -> None: ...
def returns_foreign(one: int) -> Foreign: ...  # type: ignore[empty-body]
def returns_unsupported(one: int) -> dict[str, int] | User: ...  # type: ignore[empty-body]
def returns_unsaid(one: int):  # type: ignore[no-untyped-def]
    ...


def returns_absent(one: int) -> "Absent":  # type: ignore[name-defined]  # noqa: F821
    ...


@dataclass
class Later:
    """Defined after the function that returns it."""

    name: str


@pytest.mark.parametrize(
    ("function", "type"),
    [
        (returns_list, list[User]),
        (returns_later, Later),
        (returns_none, type(None)),
        (returns_any, None),
        (returns_unsaid, None),
        (returns_foreign, None),
        (returns_unsupported, None),
    ],
)
def test_the_return_annotation_is_the_wanted_type_where_it_can_be_decoded(
    cache: RecordingCache, function: Callable[[int], Any], type: Any
) -> None:
    cached(cache, "x:{one}")(function)(7)
    assert cache.asked[-1]["type"] == type


def test_a_return_annotation_that_does_not_exist_is_named_at_the_first_call(cache: RecordingCache) -> None:
    with pytest.raises(LoaderError, match=r"return: 'Absent' cannot be resolved.*import it at run time"):
        cached(cache, "x:{one}")(returns_absent)(7)


def test_the_types_of_a_cached_function_are_those_of_the_function() -> None:
    assert_type(get_user(7), User)
    assert_type(get_user.refresh(user_id=7), User)
    assert_type(Repository("x").plain(7), str)
    assert_type(Repository.above(7), str)
    assert_type(Repository("x").above.refresh(7), str)
    with pytest.raises(LoaderError):
        get_user("7")  # type: ignore[arg-type]
    with pytest.raises(LoaderError):
        Repository("x").plain("7")  # type: ignore[arg-type]


# -- registration ---------------------------------------------------------------------------------------------
