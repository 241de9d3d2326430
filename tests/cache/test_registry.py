"""The registry: who loads a key, and who may not register."""

import importlib
import sys
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.cache.errors import LoaderError
from stoker.cache.loaders import LoadKey, Registry, loader
from stoker.cache.templates import Template
from tests.cache.loading_samples import (
    Status,
    a_loader,
    load_popular,
    load_user,
    typed,
)


def test_the_decorator_registers_the_function_and_leaves_it_as_it_is(registry: Registry) -> None:
    assert loader("user:{user_id}", ttl=60, soft_ttl=50, tags=["users"])(load_user) is load_user
    found = registry.find("user:7")
    assert found is not None
    made, args = found
    assert args == {"user_id": 7}
    assert (made.function, made.name) == (load_user, f"{load_popular.__module__}:load_user")
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
    for name in (one, two, f"{load_popular.__module__}:load_popular", other.name):
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
