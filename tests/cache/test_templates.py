"""Templates: which keys they make, and which they match."""

from datetime import date, datetime, timedelta, timezone
from typing import Annotated, Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.cache.errors import LoaderError
from stoker.cache.templates import Template
from tests.cache.loading_samples import Bytes, Level, Priority, Status, UserId, a_loader, load_user, typed

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
