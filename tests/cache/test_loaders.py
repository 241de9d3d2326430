"""Loaders: what they may look like, and what comes of loading."""

from collections.abc import Callable
from typing import Any, Literal

import pytest

from stoker.cache.errors import ConfigError, InvalidName, LoaderError
from stoker.cache.loaders import Loader, LoadKey, Registry, loader
from tests.cache.loading_samples import (
    Bytes,
    Odd,
    Pair,
    a_loader,
    load_popular,
    load_report,
    load_user,
)

Perform = Callable[[Any], Any]


def test_a_key_is_bound_like_a_call_of_the_function() -> None:
    report = a_loader("report:{year}:{month}", load_report)
    assert (
        report.key(2024, 5) == report.key(2024, month=5) == report.key(month=5, year=2024) == "report:2024:5"
    )
    assert report.key(2024) == "report:2024:1"
    assert report.key(2024, tenant_id="acme") == "report:2024:1"
    popular = a_loader("popular:{name}", load_popular, many=True)
    assert popular.key("x") == popular.key(name="x") == "popular:x"


@pytest.mark.parametrize(
    ("args", "kwargs", "named"),
    [((), {}, "year"), ((1, 2, 3), {}, "too many"), ((1,), {"day": 3}, "day"), ((1,), {"year": 1}, "year")],
)
def test_a_wrong_argument_of_key_is_named(args: tuple[Any, ...], kwargs: dict[str, Any], named: str) -> None:
    with pytest.raises(LoaderError, match=named):
        a_loader("report:{year}:{month}", load_report).key(*args, **kwargs)


def test_parameters_without_annotation_are_str() -> None:
    def untyped(name):  # type: ignore[no-untyped-def]
        return name

    made = a_loader("x:{name}", untyped)
    assert made.match("x:007") == {"name": "007"}
    with pytest.raises(LoaderError, match="is of type int, the field takes str"):
        made.key(7)


def test_annotations_may_be_strings() -> None:
    def quoted(one: "int", two: "Literal['a']", tenant_id: "Absent") -> "Absent":  # type: ignore[name-defined]  # noqa: F821
        return one, two, tenant_id

    assert a_loader("x:{one}:{two}", quoted).match("x:1:a") == {"one": 1, "two": "a"}


def bad_field(user_id: int) -> None: ...
def bad_extra(user_id: int, verbose: bool = False) -> None: ...
def bad_tenant(user_id: int, tenant_id: str) -> None: ...
def bad_args(*user_id: int) -> None: ...
def bad_kwargs(user_id: int, **options: int) -> None: ...
def bad_positional(user_id: int, /) -> None: ...
def bad_type(user_id: Bytes) -> None: ...
def bad_optional(user_id: int | None) -> None: ...
def bad_list(user_id: list[int]) -> None: ...
def bad_enum(user_id: Pair) -> None: ...
def bad_texts(user_id: Odd) -> None: ...
def bad_literal(user_id: Literal["a:b"]) -> None: ...
def bad_name(user_id: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821
def bad_generator(user_id: int) -> Any:
    yield user_id


@pytest.mark.parametrize(
    ("template", "function", "reason"),
    [
        ("user:{id}", bad_field, r"\{id\} is not among the parameters \(user_id\)"),
        ("user", bad_field, "parameter user_id is missing.*would share a key; add it to the template"),
        ("user:{user_id}", bad_extra, "parameter verbose is missing.*add it to the template"),
        ("user:{user_id}:{tenant_id}", bad_tenant, "remove {tenant_id}; tenants have separate key spaces"),
        ("user:{user_id}", bad_args, r"parameter \*user_id cannot be passed by name"),
        ("user:{user_id}", bad_kwargs, r"parameter \*\*options cannot be passed by name"),
        ("user:{user_id}", bad_positional, "parameter user_id cannot be passed by name"),
        ("user:{user_id}", bad_type, "user_id: .*Bytes cannot be part of a key; a field is str, int"),
        ("user:{user_id}", bad_optional, "int | None cannot be part of a key"),
        ("user:{user_id}", bad_list, "list.int. cannot be part of a key"),
        ("user:{user_id}", bad_enum, "Pair cannot be part of a key"),
        ("user:{user_id}", bad_texts, "Odd cannot be part of a key"),
        ("user:{user_id}", bad_literal, "cannot be part of a key"),
        ("user:{user_id}", bad_name, "'Nowhere' cannot be resolved.*import it at run time"),
        ("user:{user_id}", bad_generator, "is a generator"),
        ("user:{user_id}", Bytes(), "is no plain function"),
        ("user:{user_id}", print, "is no plain function"),
    ],
)
def test_a_function_that_does_not_fit_its_template_is_refused_with_the_remedy(
    template: str, function: Any, reason: str, registry: Registry
) -> None:
    with pytest.raises(LoaderError, match=reason):
        loader(template)(function)
    assert registry.find("user:1") is None


def test_a_batch_loader_takes_one_list() -> None:
    with pytest.raises(LoaderError, match="called with one argument, a list of LoadKey"):
        a_loader("report:{year}:{month}", load_report, many=True)


@pytest.mark.parametrize(
    ("options", "error", "reason"),
    [
        ({"ttl": 0}, ConfigError, "ttl=0"),
        ({"ttl": 10, "soft_ttl": 10}, ConfigError, "soft_ttl=10: must be below ttl=10"),
        ({"soft_ttl": -1}, ConfigError, "soft_ttl=-1"),
        ({"tags": "users"}, InvalidName, "not one str"),
        ({"tags": ["user:{id}"]}, LoaderError, r"tag 'user:\{id\}' of .*load_user: \{id\} is no field"),
        ({"tags": ["user:{user_id"]}, LoaderError, "must hold one field"),
    ],
)
def test_settings_of_a_loader_are_checked_when_it_is_made(
    options: dict[str, Any], error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        a_loader("user:{user_id}", load_user, **options)


def test_tags_may_be_made_from_fields() -> None:
    tagged = a_loader("user:{user_id}", load_user, tags=["users", "user:{user_id}"])
    assert tagged.tags_for({"user_id": 7}) == ("users", "user:7")
    plain = a_loader("user:{user_id}", load_user, tags=["users"])
    assert plain.tags_for({"user_id": 7}) == ("users",)


# -- loading --------------------------------------------------------------------------------------------------


def keys_of(made: Loader, *keys: str, tenant_id: str | None = None) -> list[LoadKey]:
    return [LoadKey(key, made.match(key) or {}, tenant_id) for key in keys]


def test_a_loader_is_called_with_the_fields_by_name_and_the_tenant_if_it_wants_it(perform: Perform) -> None:
    report = a_loader("report:{year}:{month}", load_report)
    loaded = perform(report.load(keys_of(report, "report:2024:5", tenant_id="acme")))
    assert loaded.values == {"report:2024:5": "acme: 2024-5"}
    user = a_loader("user:{user_id}", load_user)
    assert perform(user.load(keys_of(user, "user:7", tenant_id="acme"))).values == {"user:7": {"id": 7}}


def test_one_key_that_fails_does_not_fail_the_others(perform: Perform) -> None:
    def load(user_id: int) -> int | None:
        if user_id == 2:
            raise OSError("no such user")
        return None

    made = a_loader("user:{user_id}", load)
    loaded = perform(made.load(keys_of(made, "user:1", "user:2", "user:3")))
    assert loaded.values == {"user:1": None, "user:3": None}
    assert {key: str(error) for key, error in loaded.errors.items()} == {"user:2": "no such user"}
    assert loaded.missing == []
    assert set(loaded.cost_us) == {"user:1", "user:3"}
    assert all(cost >= 0 for cost in loaded.cost_us.values())


def test_a_batch_loader_is_called_once_and_what_it_leaves_out_is_missing(perform: Perform) -> None:
    calls: list[list[LoadKey]] = []

    def load(keys: list[LoadKey]) -> dict[str, object]:
        calls.append(keys)
        return load_popular(keys)

    made = a_loader("popular:{name}", load, many=True)
    asked = keys_of(made, "popular:a", "popular:unknown", "popular:b", tenant_id="acme")
    loaded = perform(made.load(asked))
    assert calls == [asked]
    assert loaded.values == {"popular:a": "a", "popular:b": "b"}
    assert (loaded.errors, loaded.missing) == ({}, ["popular:unknown"])
    assert set(loaded.cost_us) == {"popular:a", "popular:b"}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda: 1 / 0, "division by zero"),
        (lambda: None, "returned NoneType; return a mapping"),
        (lambda: [("popular:a", 1)], "returned list; return a mapping"),
        (lambda: {"popular:a": 1, "a": 2}, "returned 'a', a key that it was not asked for"),
        (lambda: {("popular", "a"): 1}, "a key that it was not asked for"),
    ],
)
def test_a_batch_that_fails_or_answers_wrongly_fails_each_of_its_keys(
    answer: Callable[[], Any], reason: str, perform: Perform
) -> None:
    def load(keys: list[LoadKey]) -> Any:
        return keys and answer()

    made = a_loader("popular:{name}", load, many=True)
    loaded = perform(made.load(keys_of(made, "popular:a", "popular:b")))
    assert loaded.values == loaded.cost_us == {}
    assert set(loaded.errors) == {"popular:a", "popular:b"}
    assert all(reason in str(error) for error in loaded.errors.values())


def test_a_loader_is_not_called_for_nothing(perform: Perform) -> None:
    made = a_loader("popular:{name}", lambda _: pytest.fail("called"), many=True)
    assert perform(made.load([])).values == {}


def test_a_key_of_two_tenants_cannot_be_loaded_in_one_call(perform: Perform) -> None:
    made = a_loader("popular:{name}", load_popular, many=True)
    (key,) = keys_of(made, "popular:a", tenant_id="acme")
    with pytest.raises(ValueError, match="comes twice"):
        perform(made.load([key, LoadKey(key.key, key.args, "other")]))


def test_what_stops_the_process_is_not_taken_for_a_failed_key(perform: Perform) -> None:
    def load(user_id: int) -> None:
        raise KeyboardInterrupt(user_id)

    made = a_loader("user:{user_id}", load)
    with pytest.raises(KeyboardInterrupt):
        perform(made.load(keys_of(made, "user:1")))


# -- the registry ---------------------------------------------------------------------------------------------
