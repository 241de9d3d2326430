"""Templates, the registry, and what loaders may look like."""

import importlib
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from enum import Enum, IntEnum, StrEnum, auto
from pathlib import Path
from types import FunctionType
from typing import Annotated, Any, Literal, NewType
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.cache import loaders
from stoker.cache.errors import ConfigError, InvalidName, LoaderError
from stoker.cache.loaders import Loader, LoadKey, Registry, loader
from stoker.cache.templates import Template, field_type

UserId = NewType("UserId", int)


class Status(StrEnum):
    ACTIVE = auto()
    GONE = auto()


class Level(Enum):
    LOW = 1
    HIGH = 2


class Priority(IntEnum):
    LOW = 1


class Pair(Enum):
    ONE = (1, 2)


class Odd(Enum):
    TEXT = "1"
    NUMBER = 1


class Bytes:
    """A type that has only the default repr."""


def a_loader(template: str, function: Callable[..., Any], **settings: Any) -> Loader:
    return Loader(template, function, **settings)


def load_user(user_id: int) -> dict[str, int]:
    return {"id": user_id}


def load_report(year: int, month: int = 1, *, tenant_id: str | None) -> str:
    return f"{tenant_id}: {year}-{month}"


def load_popular(keys: list[LoadKey]) -> dict[str, object]:
    return {key.key: key.args["name"] for key in keys if key.args["name"] != "unknown"}


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The default registry of the test, empty at first."""
    fresh = Registry()
    monkeypatch.setattr(loaders, "default_registry", fresh)
    return fresh


# -- keys and their arguments ---------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=":"), min_size=1, max_size=20)
offsets = st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23)))
fields: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (str, texts),
    (int, st.integers(-(10**40), 10**40)),
    (float, st.floats(allow_nan=False)),
    (bool, st.booleans()),
    (UUID, st.uuids()),
    (date, st.dates()),
    (datetime, st.datetimes(timezones=st.none() | offsets)),
    (Status, st.sampled_from(Status)),
    (Level, st.sampled_from(Level)),
    (Literal["a", "b", 3], st.sampled_from(["a", "b", 3])),
    (UserId, st.integers()),
    (Annotated[int, "whatever"], st.integers()),
]


def typed(template: str, **annotations: Any) -> Template:
    def type_of(name: str) -> Any:
        return field_type(annotations[name]) or pytest.fail(f"{annotations[name]} is no type of a field")

    return Template(template, type_of)


@settings(deadline=None, max_examples=400)
@given(st.data(), st.sampled_from(fields), st.sampled_from(fields))
def test_a_key_gives_back_the_arguments_it_was_made_from(data: st.DataObject, one: Any, two: Any) -> None:
    annotations = {"one": one[0], "two": two[0]}

    def function(one: Any, two: Any) -> None: ...

    function.__annotations__ = annotations
    made = a_loader("x:{one}:y{two}z", function)
    args = {"one": data.draw(one[1]), "two": data.draw(two[1])}
    key = made.key(**args)
    assert made.match(key) == args
    assert made.key(**(made.match(key) or {})) == key


spellings = st.from_regex(r"[-+0-9eE._T]{1,12}|nan|inf|true|True|0x1|1_0", fullmatch=True)


@settings(deadline=None, max_examples=400)
@given(st.sampled_from(fields), texts | spellings)
def test_a_key_either_gives_back_itself_or_is_no_key_of_the_template(kind: Any, text: str) -> None:
    def function(field: Any) -> None: ...

    function.__annotations__ = {"field": kind[0]}
    made = a_loader("x:{field}", function)
    args = made.match(f"x:{text}")
    assert args is None or made.key(**args) == f"x:{text}"


@pytest.mark.parametrize(
    ("annotation", "value", "text"),
    [
        (int, -7, "-7"),
        (int, True, "1"),
        (int, Priority.LOW, "1"),
        (str, Status.ACTIVE, "active"),
        (str, "ä %*{}", "ä %*{}"),
        (float, 1, "1.0"),
        (float, 1e300, "1e+300"),
        (bool, True, "True"),
        (date, date(2024, 5, 1), "2024-05-01"),
        (datetime, datetime(2024, 5, 1, 10, 30), "2024-05-01T103000"),
        (
            datetime,
            datetime(2024, 5, 1, 10, 30, 0, 5, tzinfo=ZoneInfo("Europe/Berlin")),
            "2024-05-01T103000.000005+0200",
        ),
        (
            datetime,
            datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")),
            "2024-10-27T023000+0100",
        ),
        (Status, Status.GONE, "gone"),
        (Level, Level.HIGH, "2"),
        (Literal["a", 3], 3, "3"),
        (UUID, UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    ],
)
def test_how_each_type_is_written(annotation: Any, value: Any, text: str) -> None:
    template = typed("x:{field}", field=annotation)
    assert template.key({"field": value}) == f"x:{text}"
    assert template.match(f"x:{text}") is not None


@pytest.mark.parametrize(
    ("annotation", "value", "reason"),
    [
        (str, 7, "field=7 is of type int, the field takes str"),
        (str, None, "is of type NoneType"),
        (str, "a:b", "must not be empty or contain ':'"),
        (str, "", "must not be empty"),
        (int, "7", "is of type str, the field takes int"),
        (int, 7.0, "is of type float"),
        (float, 2**53 + 1, "no exact float"),
        (float, float("nan"), "no exact float"),
        (date, datetime(2024, 5, 1), "time of day"),
        (datetime, date(2024, 5, 1), "is of type date"),
        (Status, "active", "is of type str, the field takes Status"),
        (Literal["a", "b"], "c", "not one of the values"),
        (int, Bytes(), "field=<Bytes> is of type Bytes"),
        (str, Bytes(), "field=<Bytes> is of type Bytes"),
    ],
)
def test_a_value_that_its_text_would_not_give_back_never_becomes_part_of_a_key(
    annotation: Any, value: Any, reason: str
) -> None:
    with pytest.raises(LoaderError) as caught:
        typed("x:{field}", field=annotation).key({"field": value})
    assert reason in str(caught.value)
    assert " at 0x" not in str(caught.value)


@pytest.mark.parametrize(
    "key", ["user:007", "user:+7", "user: 7", "user:7_0", "user:\u0667", "user:7.0", "user:x"]
)
def test_another_spelling_of_a_value_is_no_key_of_the_template(key: str) -> None:
    assert a_loader("user:{user_id}", load_user).match(key) is None


@pytest.mark.parametrize("key", ["user:", "user", "user:1:posts", "users:1", "xuser:1", "user:1\n"])
def test_a_field_is_never_empty_and_never_contains_a_colon(key: str) -> None:
    assert Template("user:{user_id}").match(key) in (None, {"user_id": "1\n"})
    assert a_loader("user:{user_id}", load_user).match(key) is None


def test_literal_text_is_taken_literally() -> None:
    template = Template("a.b*c:{x}.json")
    assert template.match("a.b*c:7.json") == {"x": "7"}
    assert template.match("aXb*c:7.json") is None
    assert Template("settings").match("settings") == {}
    assert Template("settings").match("settings:1") is None


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("", "must be text"),
        (7, "must be text"),
        ("user:{user_id", "must hold one field"),
        ("user:user_id}", "must hold one field"),
        ("{year}-{month}", "separate two fields by ':'"),
        ("user:{}", "plain name"),
        ("user:{0}", "plain name"),
        ("user:{user.id}", "plain name"),
        ("user:{user_id:d}", "must hold one field"),
        ("user:{user_id!r}", "plain name"),
        ("user:{{x}}", "must hold one field"),
        ("{x}:{x}", "may appear once"),
    ],
)
def test_what_is_no_template_is_refused_with_the_reason(template: Any, reason: str) -> None:
    with pytest.raises(LoaderError, match="template .*" + reason):
        Template(template)


# -- a loader and its function --------------------------------------------------------------------------------


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
async def bad_async(user_id: int) -> None: ...
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
        ("user:{user_id}", bad_async, "is asynchronous"),
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


def test_a_loader_is_called_with_the_fields_by_name_and_the_tenant_if_it_wants_it() -> None:
    report = a_loader("report:{year}:{month}", load_report)
    loaded = report.load(keys_of(report, "report:2024:5", tenant_id="acme"))
    assert loaded.values == {"report:2024:5": "acme: 2024-5"}
    user = a_loader("user:{user_id}", load_user)
    assert user.load(keys_of(user, "user:7", tenant_id="acme")).values == {"user:7": {"id": 7}}


def test_one_key_that_fails_does_not_fail_the_others() -> None:
    def load(user_id: int) -> int | None:
        if user_id == 2:
            raise OSError("no such user")
        return None

    made = a_loader("user:{user_id}", load)
    loaded = made.load(keys_of(made, "user:1", "user:2", "user:3"))
    assert loaded.values == {"user:1": None, "user:3": None}
    assert {key: str(error) for key, error in loaded.errors.items()} == {"user:2": "no such user"}
    assert loaded.missing == []
    assert set(loaded.cost_us) == {"user:1", "user:3"}
    assert all(cost >= 0 for cost in loaded.cost_us.values())


def test_a_batch_loader_is_called_once_and_what_it_leaves_out_is_missing() -> None:
    calls: list[list[LoadKey]] = []

    def load(keys: list[LoadKey]) -> dict[str, object]:
        calls.append(keys)
        return load_popular(keys)

    made = a_loader("popular:{name}", load, many=True)
    asked = keys_of(made, "popular:a", "popular:unknown", "popular:b", tenant_id="acme")
    loaded = made.load(asked)
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
    answer: Callable[[], Any], reason: str
) -> None:
    def load(keys: list[LoadKey]) -> Any:
        return keys and answer()

    made = a_loader("popular:{name}", load, many=True)
    loaded = made.load(keys_of(made, "popular:a", "popular:b"))
    assert loaded.values == loaded.cost_us == {}
    assert set(loaded.errors) == {"popular:a", "popular:b"}
    assert all(reason in str(error) for error in loaded.errors.values())


def test_a_loader_is_not_called_for_nothing() -> None:
    made = a_loader("popular:{name}", lambda _: pytest.fail("called"), many=True)
    assert made.load([]).values == {}


def test_a_key_of_two_tenants_cannot_be_loaded_in_one_call() -> None:
    made = a_loader("popular:{name}", load_popular, many=True)
    (key,) = keys_of(made, "popular:a", tenant_id="acme")
    with pytest.raises(ValueError, match="comes twice"):
        made.load([key, replace(key, tenant_id="other")])


def test_what_stops_the_process_is_not_taken_for_a_failed_key() -> None:
    def load(user_id: int) -> None:
        raise KeyboardInterrupt(user_id)

    made = a_loader("user:{user_id}", load)
    with pytest.raises(KeyboardInterrupt):
        made.load(keys_of(made, "user:1"))


# -- the registry ---------------------------------------------------------------------------------------------


def test_the_decorator_registers_the_function_and_leaves_it_as_it_is(registry: Registry) -> None:
    assert loader("user:{user_id}", ttl=60, soft_ttl=50, tags=["users"])(load_user) is load_user
    found = registry.find("user:7")
    assert found is not None
    made, args = found
    assert args == {"user_id": 7}
    assert (made.function, made.name) == (load_user, f"{__name__}:load_user")
    assert (made.ttl, made.soft_ttl, made.tags, made.many) == (60, 50, ("users",), False)
    assert registry.find("users:7") is None


def test_a_key_finds_the_loader_of_its_template_among_others() -> None:
    registry = Registry()
    templates = ["user:{a}", "user:{a}:posts", "user:{a}:posts:{b}", "x{a}:y", "settings", "x:{a}:z"]
    for number, template in enumerate(templates):

        def function(keys: list[LoadKey]) -> Any: ...

        function.__qualname__ = f"function_{number}"
        registry.add(a_loader(template, function, many=True))
    for key, template in {
        "user:1": "user:{a}",
        "user:1:posts": "user:{a}:posts",
        "user:1:posts:2": "user:{a}:posts:{b}",
        "xx:y": "x{a}:y",
        "settings": "settings",
        "x:y:z": "x:{a}:z",
    }.items():
        found = registry.find(key)
        assert found is not None
        assert found[0].template.text == template
    assert [key for key in ("user:", "x:y", "other", "") if registry.find(key)] == []


OVERLAPPING = [
    ("user:{a}", "user:{b}"),
    ("user:{a}", "{kind}:{id}"),
    ("user:{a}", "user:me"),
    ("{a}:posts", "user:{a}"),
    ("user:a{x}", "user:{x}b"),
    ("user:a{x}", "user:ab{x}"),
    ("settings", "settings"),
    ("x{a}", "{a}x"),
]
APART = [
    ("user:{a}", "user:{a}:posts"),
    ("user:{a}", "users:{a}"),
    ("user:a{x}", "user:b{x}"),
    ("user:{x}.json", "user:{x}.xml"),
    ("user:{a}", "user"),
    ("user:{a}", "user:"),
    ("x{a}x", "xx"),
    ("{a}:posts", "{a}:likes"),
]


@pytest.mark.parametrize(("one", "two"), OVERLAPPING)
def test_templates_with_keys_in_common_are_refused_by_the_names_of_both(one: str, two: str) -> None:
    registry = Registry()
    registry.add(a_loader(one, load_popular, many=True))
    other = a_loader(two, lambda keys: dict(keys), many=True)
    with pytest.raises(LoaderError) as caught:
        registry.add(other)
    for name in (one, two, f"{__name__}:load_popular", other.name):
        assert name in str(caught.value)
    assert Template(two).overlaps(Template(one))


@pytest.mark.parametrize(("one", "two"), APART)
def test_templates_without_keys_in_common_live_together(one: str, two: str) -> None:
    assert not Template(one).overlaps(Template(two))
    assert not Template(two).overlaps(Template(one))


segments = st.builds(
    lambda before, field, after: f"{before}{'{X}' if field else ''}{after}",
    st.text("ab", max_size=2),
    st.booleans(),
    st.text("ab", max_size=2),
)
some_templates = (
    st.lists(segments, min_size=1, max_size=3)
    .map(lambda parts: ":".join(part.replace("X", f"f{at}") for at, part in enumerate(parts)))
    .filter(bool)
)


@settings(deadline=None, max_examples=300)
@given(
    some_templates, some_templates, st.lists(st.text("ab:", min_size=1, max_size=9), min_size=20, max_size=20)
)
def test_a_key_of_two_templates_means_that_they_overlap(one: str, two: str, keys: list[str]) -> None:
    first, second = Template(one), Template(two)
    shared = [key for key in keys if first.match(key) is not None and second.match(key) is not None]
    assert not shared or first.overlaps(second)
    assert first.overlaps(second) is second.overlaps(first)
    assert first.overlaps(first)


def test_a_literal_that_no_value_of_the_field_is_written_as_does_not_overlap() -> None:
    assert not typed("user:{a}", a=int).overlaps(Template("user:me"))
    assert typed("user:{a}", a=int).overlaps(Template("user:7"))
    assert not typed("user:{a}", a=Status).overlaps(Template("user:me"))


MODULE = """
from stoker.cache.loaders import loader

@loader("reloaded:{%s}", ttl=%d)
def load(%s: int) -> int:
    return %d
"""


def test_a_reloaded_module_replaces_its_loaders(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    source = tmp_path / "a_module_of_loaders.py"
    source.write_text(MODULE % ("a", 1, "a", 1))
    module = importlib.import_module("a_module_of_loaders")
    try:
        source.write_text(MODULE % ("b", 200, "b", 200))  # another length: finders compare size and time
        importlib.invalidate_caches()
        importlib.reload(module)
    finally:
        del sys.modules["a_module_of_loaders"]
    found = registry.find("reloaded:7")
    assert found is not None
    assert (found[0].ttl, found[1]) == (200, {"b": 7})


class Repository:
    def load(self, user_id: int) -> None: ...

    @staticmethod
    def find(user_id: int) -> None: ...


def test_a_function_that_no_worker_could_import_is_refused_with_reason_and_remedy(registry: Registry) -> None:
    def local(user_id: int) -> None: ...

    in_main = FunctionType(load_user.__code__, {}, "load_user")
    in_main.__module__ = "__main__"
    cases: list[tuple[Any, str]] = [
        (local, "it is local to test_a_function_that.*move it to module level"),
        (lambda user_id: user_id, "it is a lambda; write a function at module level"),
        (in_main, "__main__.*move it to a module that workers import"),
        (Repository.load, "it belongs to the class Repository; write a function at module level"),
        (Repository.find, "it belongs to the class Repository"),
    ]
    for function, reason in cases:
        with pytest.raises(LoaderError, match="no worker could import .*" + reason):
            loader("user:{user_id}")(function)
    assert registry.find("user:1") is None


def test_why_a_key_has_no_loader_can_be_asked_until_it_has_one() -> None:
    registry = Registry()
    registry.refuse("user:{user_id}", "it is a lambda")
    assert registry.find("user:7") is None
    assert registry.why_not("user:7") == "it is a lambda"
    assert registry.why_not("other:7") is None
    registry.add(a_loader("user:{user_id}", load_user))
    assert registry.find("user:7") is not None
    assert registry.why_not("user:7") is None


def test_a_load_key_can_be_a_member_of_a_set() -> None:
    assert len({LoadKey("a", {"x": 1}, None), LoadKey("a", {"x": 1}, None)}) == 1
