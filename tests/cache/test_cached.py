"""`cache.cached`: functions and methods whose results are kept, over a cache that only records what it is asked."""

import inspect
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from stoker.cache.cached import CachedDecorator, CachedFunction, cached_by
from stoker.cache.errors import LoaderError
from stoker.cache.loaders import Registry


@dataclass
class User:
    user_id: int


@dataclass
class RecordingCache:
    """Keeps results for ever, and what it was told about each."""

    kept: dict[tuple[str | None, str], Any] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)

    def get_or_load(
        self, key: str, load: Callable[[], Any], tenant_id: str | None, ttl: Any, /, **settings: Any
    ) -> Any:
        self.asked.append({"key": key, "tenant_id": tenant_id, "ttl": ttl, **settings})
        if (tenant_id, key) not in self.kept:
            self.kept[tenant_id, key] = load()
        return self.kept[tenant_id, key]

    def delete(self, key: str, tenant_id: str | None, /) -> bool:
        return self.kept.pop((tenant_id, key), self) is not self


shared_cache = RecordingCache()
shared_registry = Registry()


def cached(
    cache: RecordingCache, template: str, registry: Registry | None = None, **settings: Any
) -> CachedDecorator:
    wrap = partial(CachedFunction[..., Any], cache)
    decorator: CachedDecorator = cached_by(wrap, registry or Registry(), template, **settings)
    return decorator


@cached(
    shared_cache, "user:{user_id}", shared_registry, ttl=60, soft_ttl=50, tags=["users", "user:{user_id}"]
)
def get_user(user_id: int) -> User:
    """One user."""
    return User(user_id)


@pytest.fixture
def cache() -> RecordingCache:
    shared_cache.kept.clear()
    shared_cache.asked.clear()
    return shared_cache


# -- functions ------------------------------------------------------------------------------------------------


def test_the_function_is_called_once_for_equal_arguments(cache: RecordingCache) -> None:
    calls: list[tuple[int, str]] = []

    @cached(cache, "x:{one}:{two}")
    def function(one: int, two: str = "b") -> str:
        calls.append((one, two))
        return f"{one}{two}"

    assert [function(1), function(1, "b"), function(two="b", one=1), function(1, two="c")] == ["1b"] * 3 + [
        "1c"
    ]
    assert calls == [(1, "b"), (1, "c")]


def test_the_cache_is_told_all_that_the_decorator_and_the_function_say(cache: RecordingCache) -> None:
    assert get_user(7) == User(7)
    assert cache.asked == [
        {
            "key": "user:7",
            "tenant_id": None,
            "ttl": 60,
            "soft_ttl": 50,
            "tags": ("users", "user:7"),
            "type": User,
        }
    ]


def test_key_invalidate_and_refresh_are_called_like_the_function(cache: RecordingCache) -> None:
    results = iter("abc")

    @cached(cache, "x:{one}")
    def function(one: int) -> str:
        return f"{one}{next(results)}"

    assert function.key(7) == function.key(one=7) == "x:7"
    assert (function(7), function(7)) == ("7a", "7a")
    assert function.invalidate(7) is True
    assert function.invalidate(one=7) is False
    assert function(7) == "7b"
    assert function.refresh(7) == "7c"
    assert function(7) == "7c"


def test_a_refresh_that_fails_leaves_no_old_result(cache: RecordingCache) -> None:
    results: list[str | Exception] = ["old", OSError("down")]

    @cached(cache, "x:{one}")
    def function(one: int) -> str:
        result = results.pop(0)
        if isinstance(result, Exception):
            raise result
        return f"{result} {one}"

    assert function(7) == "old 7"
    with pytest.raises(OSError, match="down"):
        function.refresh(7)
    assert cache.kept == {}


def test_tenant_id_chooses_the_tenant_and_is_no_part_of_the_key(cache: RecordingCache) -> None:
    @cached(cache, "x:{one}")
    def function(tenant_id: str, one: int) -> str:
        return f"{one} of {tenant_id}"

    assert (function("acme", 7), function("other", one=7)) == ("7 of acme", "7 of other")
    assert list(cache.kept) == [("acme", "x:7"), ("other", "x:7")]
    assert function.key(one=7) == function.key("acme", 7) == "x:7"
    assert function.invalidate("acme", 7) is True
    assert list(cache.kept) == [("other", "x:7")]
    with pytest.raises(LoaderError, match="tenant_id"):  # without it, the shared key space would be meant
        function.invalidate(one=7)
    assert list(cache.kept) == [("other", "x:7")]


def test_a_function_without_parameters_has_one_key(cache: RecordingCache) -> None:
    @cached(cache, "settings")
    def get_settings() -> dict[str, int]:
        return {"a": 1}

    assert (get_settings(), get_settings.key()) == ({"a": 1}, "settings")


def test_a_wrong_call_is_a_type_error_that_names_function_and_argument(cache: RecordingCache) -> None:
    wrong: list[tuple[list[int], dict[str, int], str]] = [
        ([], {}, "user_id"),
        ([7, 8], {}, "too many"),
        ([7], {"id": 7}, "'id'"),
    ]
    for args, kwargs, named in wrong:
        with pytest.raises(TypeError, match=f"test_cached:get_user: .*{named}"):
            get_user(*args, **kwargs)
    assert cache.asked == []


def test_a_value_that_cannot_be_part_of_a_key_is_refused_before_anything_is_called(
    cache: RecordingCache,
) -> None:
    with pytest.raises(
        LoaderError, match="user_id=<object> is of type object, the field takes int"
    ) as caught:
        get_user(object())  # type: ignore[arg-type]
    assert " at 0x" not in str(caught.value)
    for verb in (get_user.key, get_user.invalidate):
        with pytest.raises(LoaderError, match="the field takes int"):
            verb("7")
    assert cache.asked == []


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("x:{two}", r"\{two\} is not among the parameters \(one\)"),
        ("x", "parameter one is missing: .* would share a key; add it to the template"),
    ],
)
def test_template_and_parameters_must_agree_when_the_function_is_decorated(
    cache: RecordingCache, template: str, reason: str
) -> None:
    with pytest.raises(LoaderError, match=reason):

        @cached(cache, template)
        def function(one: int) -> int:
            return one


def test_a_coroutine_function_is_for_the_cache_that_is_awaited(cache: RecordingCache) -> None:
    with pytest.raises(LoaderError, match=r"decorate it with AsyncCache\.cached"):

        @cached(cache, "x:{one}")
        async def function(one: int) -> int:
            return one


# -- looks like the function ----------------------------------------------------------------------------------


def test_it_is_documented_and_pickled_as_the_function() -> None:
    assert (get_user.__name__, get_user.__doc__, get_user.__module__) == ("get_user", "One user.", __name__)  # type: ignore[attr-defined]
    assert str(inspect.signature(get_user)).startswith("(user_id: int) -> ")
    assert get_user.__wrapped__(9) == User(9)


def test_it_is_pickled_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        sys.modules, __name__, inspect.getmodule(get_user.__wrapped__) or pytest.fail("no module")
    )
    assert pickle.loads(pickle.dumps(get_user)) is get_user


# -- methods --------------------------------------------------------------------------------------------------


class Repository:
    def __init__(self, name: str) -> None:
        self.name = name

    @cached(shared_cache, "plain:{user_id}")
    def plain(self, user_id: int) -> str:
        """Of an instance."""
        return f"{self.name} {user_id}"

    @cached(shared_cache, "above-class:{user_id}")
    @classmethod
    def above(cls, user_id: int) -> str:
        return f"{cls.__name__} {user_id}"

    @classmethod
    @cached(shared_cache, "below-class:{user_id}")
    def below(cls, user_id: int) -> str:
        return f"{cls.__name__} {user_id}"

    @cached(shared_cache, "above-static:{user_id}")
    @staticmethod
    def static_above(user_id: int) -> str:
        return f"static {user_id}"

    @staticmethod
    @cached(shared_cache, "below-static:{user_id}")
    def static_below(user_id: int) -> str:
        return f"static {user_id}"


class Child(Repository):
    pass


def test_self_is_no_part_of_the_key_so_instances_share_results(cache: RecordingCache) -> None:
    one, two = Repository("one"), Repository("two")
    assert (one.plain(7), two.plain(user_id=7)) == ("one 7", "one 7")
    assert one.plain.key(7) == Repository.plain.key(7) == "plain:7"
    assert two.plain.refresh(7) == "two 7"
    assert one.plain(7) == "two 7"
    assert Repository.plain(two, 7) == "two 7"  # type: ignore[call-arg, arg-type]  # pyright knows better
    assert Repository.plain.invalidate(7) is True
    assert one.plain.invalidate(7) is False
    assert list(cache.kept) == []
    assert Repository.plain.refresh(one, 8) == "one 8"  # type: ignore[call-arg, arg-type]


def test_class_methods_get_their_class_in_either_order(cache: RecordingCache) -> None:
    assert (Repository.above(7), Child.above(7), Child("c").above(8)) == (
        "Repository 7",
        "Repository 7",
        "Child 8",
    )
    assert (Repository.below(7), Child.below(7), Child("c").below(8)) == (
        "Repository 7",
        "Repository 7",
        "Child 8",
    )
    assert Child.above.refresh(7) == "Child 7"
    for method in (Repository.above, Repository.below):
        assert method.key(7).endswith("-class:7")
        assert method.invalidate(7) is True
    assert {key for _, key in cache.kept} == {"above-class:8", "below-class:8"}


def test_static_methods_work_in_either_order(cache: RecordingCache) -> None:
    found: list[Any] = [Repository.static_above, Repository("r").static_above]
    for method in found:
        assert (method(7), method.key(7), method.refresh(8)) == ("static 7", "above-static:7", "static 8")
    found = [Repository.static_below, Repository("r").static_below]
    for method in found:
        assert (method(7), method.key(7), method.refresh(8)) == ("static 7", "below-static:7", "static 8")
    assert len(cache.kept) == 4


def test_a_bound_method_has_the_signature_without_self() -> None:
    assert str(inspect.signature(Repository("x").plain)) == "(user_id: int) -> str"


# -- what the results are decoded to --------------------------------------------------------------------------


def test_a_function_at_module_level_becomes_the_loader_of_its_template() -> None:
    found = shared_registry.find("user:7")
    assert found is not None
    made, args = found
    assert (made.name, args) == (f"{__name__}:get_user", {"user_id": 7})
    assert made.function is get_user.__wrapped__  # loading goes to the source, not to the cache
    assert (made.ttl, made.soft_ttl, made.tags_for(args)) == (60, 50, ("users", "user:7"))


def another(one: int) -> Any:
    """At module level, so that it would be registered."""


def test_two_functions_cannot_be_the_loader_of_one_key(cache: RecordingCache) -> None:
    with pytest.raises(LoaderError, match="have keys in common"):
        cached(cache, "user:{one}", shared_registry)(another)


def test_a_function_that_no_worker_could_import_is_cached_and_the_reason_is_kept(
    cache: RecordingCache,
) -> None:
    registry = Registry()

    @cached(cache, "local:{one}", registry)
    def local(one: int) -> int:
        return one

    in_lambda = cached(cache, "lambda", registry)(lambda: 5)

    class Local:
        @cached(cache, "method:{one}", registry)
        def method(self, one: int) -> int:
            return one

    assert (local(7), in_lambda(), Local().method(9)) == (7, 5, 9)
    assert [registry.find(key) for key in ("local:7", "lambda", "method:9")] == [None, None, None]
    for key, reason in {"local:7": "is local to", "lambda": "is a lambda", "method:9": "is local to"}.items():
        why_not = registry.why_not(key) or ""
        assert "no worker could import" in why_not
        assert reason in why_not


def test_a_method_is_no_loader_since_a_worker_has_no_instance() -> None:
    registry = Registry()
    cached(shared_cache, "y:{user_id}", registry)(Repository.plain.__wrapped__)
    assert "it belongs to the class Repository" in (registry.why_not("y:7") or "")
