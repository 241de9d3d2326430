"""`cache.cached(template)`: a function whose results are kept under the key of its arguments.

The call goes through `get_or_load`, so it has one load per key, leases and invalidation like any other entry;
what the function says about its keys is read by `loaders`. A function at module level also becomes the
registered loader of its template, so that a worker can warm and refresh what it returns. One that no worker could
import is cached all the same, and the registry remembers why its keys cannot be warmed.

A method is cached for all instances alike: `self` and `cls` are no part of the key. Where an instance matters,
make what distinguishes it a parameter.
"""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import cached_property, partial, update_wrapper
from inspect import iscoroutinefunction
from types import MethodType
from typing import (
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    Protocol,
    Self,
    TypeAlias,
    TypedDict,
    TypeVar,
    overload,
)

from stoker.cache.codec import check_type
from stoker.cache.errors import ConfigError, LoaderError
from stoker.cache.loaders import Loader, Registry
from stoker.cache.options import Seconds
from stoker.cache.signatures import TENANT, why_not_importable
from stoker.cache.worth import EvictWhen

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
Dropped_co = TypeVar("Dropped_co", covariant=True)
Awaited: TypeAlias = Coroutine[Any, Any, R]
Call: TypeAlias = tuple[str, Callable[[], Any], str | None, Seconds | None]


class KeepsResults(Protocol):
    """What a cached function needs of a cache."""

    def get_or_load(
        self,
        key: str,
        load: Callable[[], Any],
        tenant_id: str | None,
        ttl: Seconds | None,
        /,
        *,
        soft_ttl: Seconds | None,
        tags: tuple[str, ...],
        type: Any,
    ) -> Any:
        """The value of a key, loaded and stored if it is not there."""
        ...

    def delete(self, key: str, tenant_id: str | None, /) -> bool:
        """Drop a key; whether there was one."""
        ...


class KeepsResultsAsync(Protocol):
    """As `KeepsResults`, awaited."""

    async def get_or_load(
        self,
        key: str,
        load: Callable[[], Any],
        tenant_id: str | None,
        ttl: Seconds | None,
        /,
        *,
        soft_ttl: Seconds | None,
        tags: tuple[str, ...],
        type: Any,
    ) -> Any:
        """See `KeepsResults`."""
        ...

    async def delete(self, key: str, tenant_id: str | None, /) -> bool:
        """See `KeepsResults`."""
        ...


class Options(TypedDict):
    """The arguments of `get_or_load` that come by name."""

    soft_ttl: Seconds | None
    tags: tuple[str, ...]
    type: Any


class CachedBase(Generic[P]):
    """What cached functions are, whoever awaits them or not: a function and the keys of its calls."""

    __qualname__: str

    def __init__(self, loader: Loader, *, of_class: bool) -> None:
        update_wrapper(self, loader.function)  # type: ignore[arg-type]
        self._function = loader.function
        self._loader = loader
        self._of_class = of_class

    def key(self, *args: Any, **kwargs: Any) -> str:
        """The key of a call with these arguments. Neither `self`, `cls` nor `tenant_id` is needed.

        Raises:
            LoaderError: An argument is missing or unknown, or cannot be part of a key.
        """
        return self._loader.key(*args, **kwargs)

    def __reduce__(self) -> str:
        return self.__qualname__  # pickled by name, as functions are

    def _call_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Call, Options]:
        """A call as arguments of `get_or_load`."""
        arguments = self._loader.signature.bind(self._split(args)[1], kwargs)
        key, tags = self._loader.key_and_tags(arguments)
        load = partial(self._function, *args, **kwargs)
        positional = (key, load, arguments.get(TENANT), self._loader.ttl)
        return positional, Options(soft_ttl=self._loader.soft_ttl, tags=tags, type=self._type)

    def _name_of(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[str, str | None]:
        """Key and tenant of a call without `self` or `cls`."""
        try:
            arguments = self._loader.signature.bind(args, kwargs)
        except TypeError as exc:
            raise LoaderError(str(exc)) from None
        return self._loader.template.key(arguments), arguments.get(TENANT)

    def _target(self, instance: object, owner: type | None) -> object | None:
        """What the function is bound to when it is looked up; None where that changes nothing."""
        return (owner if self._of_class else instance) if self._loader.signature.takes_self else None

    def _split(self, args: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        """What `self` or `cls` takes of the arguments of a call, and the rest."""
        taken = int(self._loader.signature.takes_self)
        return args[:taken], args[taken:]

    @cached_property
    def _type(self) -> Any:
        """What results are decoded to. Found at the first call, when all names of the module exist."""
        annotation = self._loader.signature.return_type()
        if annotation is Any:
            return None
        try:
            check_type(annotation)
        except ConfigError:
            return None
        return annotation


class CachedFunction(CachedBase[P], Generic[P, R_co]):
    """A function whose results are cached. Called, documented and typed like the function itself.

    Where the function takes `tenant_id`, that argument chooses the tenant; otherwise all share the results. A
    result comes back as the return annotation says where msgspec can decode that, else as plain data.

    Args:
        cache: Where the results are kept.
        loader: The function with what is known of its keys.
        of_class: Whether it is a class method: its first parameter is the class, not an instance.
    """

    __wrapped__: Callable[P, R_co]

    def __init__(self, cache: KeepsResults, loader: Loader, *, of_class: bool = False) -> None:
        if iscoroutinefunction(loader.function):
            raise LoaderError(f"{loader.name} is a coroutine function: decorate it with AsyncCache.cached")
        super().__init__(loader, of_class=of_class)
        self._cache = cache

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """The function's result, from the cache or by calling it.

        Raises:
            LoaderError: An argument cannot be part of a key.
            Exception: Whatever the function raises; nothing is stored then.
        """
        call, options = self._call_of(args, kwargs)
        value: R_co = self._cache.get_or_load(*call, **options)
        return value

    def invalidate(self, *args: Any, **kwargs: Any) -> bool:
        """Drop the result of a call with these arguments, without `self` or `cls`; whether there was one.

        Raises:
            LoaderError: As `key`, and if `tenant_id` is missing though the function needs it.
            InvalidationNotAcknowledged: The result may or may not be gone: repeat it.
        """
        return self._cache.delete(*self._name_of(args, kwargs))

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Drop the result of this call, then make the call: nobody is served the old result any more.

        The old result is gone even if the function then fails. Raises as `invalidate` and as the call.
        """
        self.invalidate(*self._split(args)[1], **kwargs)
        return self(*args, **kwargs)

    @overload
    def __get__(
        self: "CachedFunction[Concatenate[type[Any], Q], R]", instance: object, owner: type, /
    ) -> "BoundCachedFunction[Q, R, bool]": ...
    @overload
    def __get__(self, instance: None, owner: type, /) -> Self: ...
    @overload
    def __get__(
        self: "CachedFunction[Concatenate[Any, Q], R]", instance: object, owner: type | None = None, /
    ) -> "BoundCachedFunction[Q, R, bool]": ...
    def __get__(self, instance: object, owner: type | None = None, /) -> Any:
        target = self._target(instance, owner)
        return self if target is None else BoundCachedFunction(self, target)


class AsyncCachedFunction(CachedBase[P], Generic[P, R_co]):
    """As `CachedFunction`, to be awaited: what `AsyncCache.cached` makes of a coroutine function, or of a function
    that runs in a thread.
    """

    __wrapped__: Callable[P, Any]

    def __init__(self, cache: KeepsResultsAsync, loader: Loader, *, of_class: bool = False) -> None:
        super().__init__(loader, of_class=of_class)
        self._cache = cache

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """See `CachedFunction.__call__`."""
        call, options = self._call_of(args, kwargs)
        value: R_co = await self._cache.get_or_load(*call, **options)
        return value

    async def invalidate(self, *args: Any, **kwargs: Any) -> bool:
        """See `CachedFunction.invalidate`."""
        return await self._cache.delete(*self._name_of(args, kwargs))

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """See `CachedFunction.refresh`."""
        await self.invalidate(*self._split(args)[1], **kwargs)
        return await self(*args, **kwargs)

    @overload
    def __get__(
        self: "AsyncCachedFunction[Concatenate[type[Any], Q], R]", instance: object, owner: type, /
    ) -> "BoundCachedFunction[Q, Awaited[R], Awaited[bool]]": ...
    @overload
    def __get__(self, instance: None, owner: type, /) -> Self: ...
    @overload
    def __get__(
        self: "AsyncCachedFunction[Concatenate[Any, Q], R]", instance: object, owner: type | None = None, /
    ) -> "BoundCachedFunction[Q, Awaited[R], Awaited[bool]]": ...
    def __get__(self, instance: object, owner: type | None = None, /) -> Any:
        target = self._target(instance, owner)
        return self if target is None else BoundCachedFunction(self, target)


class BoundCachedFunction(Generic[P, R_co, Dropped_co]):
    """A cached method together with its `self` or `cls`."""

    __slots__ = ("__self__", "__wrapped__", "_function")

    def __init__(
        self, function: CachedFunction[..., Any] | AsyncCachedFunction[..., Any], target: object
    ) -> None:
        self._function: Any = function
        self.__self__ = target
        self.__wrapped__ = MethodType(function.__wrapped__, target)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """As `CachedFunction`."""
        result: R_co = self._function(self.__self__, *args, **kwargs)
        return result

    def key(self, *args: Any, **kwargs: Any) -> str:
        """As `CachedFunction.key`."""
        key: str = self._function.key(*args, **kwargs)
        return key

    def invalidate(self, *args: Any, **kwargs: Any) -> Dropped_co:
        """As `CachedFunction.invalidate`."""
        dropped: Dropped_co = self._function.invalidate(*args, **kwargs)
        return dropped

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """As `CachedFunction.refresh`."""
        result: R_co = self._function.refresh(self.__self__, *args, **kwargs)
        return result


class CachedDecorator(Protocol):
    """What `Cache.cached(...)` returns."""

    @overload
    def __call__(self, function: "staticmethod[..., Any] | classmethod[Any, ..., Any]", /) -> Any: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> CachedFunction[P, R]: ...


class AsyncCachedDecorator(Protocol):
    """What `AsyncCache.cached(...)` returns."""

    @overload
    def __call__(self, function: "staticmethod[..., Any] | classmethod[Any, ..., Any]", /) -> Any: ...
    @overload
    def __call__(self, function: Callable[P, Awaited[R]], /) -> AsyncCachedFunction[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> AsyncCachedFunction[P, R]: ...


def cached_by(
    wrap: Callable[..., Any],
    registry: Registry,
    template: str,
    *,
    ttl: Seconds | None = None,
    soft_ttl: Seconds | None = None,
    tags: Sequence[str] = (),
    evict: EvictWhen = "normal",
) -> Any:
    """The decorator that `wrap`s a function's loader, and registers it in `registry` if that helps.

    Each parameter of the function but `tenant_id`, `self` and `cls` must be a field of the template. Both orders
    with `@classmethod` and `@staticmethod` work, but on Python 3.13 a class method's `refresh` needs this one on
    top. The other arguments, and what is raised when the decorator is applied, are those of `Loader`.
    """

    def decorate(function: Any, /) -> Any:
        plain = function.__func__ if isinstance(function, staticmethod | classmethod) else function
        loader = Loader(template, plain, ttl=ttl, soft_ttl=soft_ttl, tags=tags, evict=evict)
        made = wrap(loader, of_class=isinstance(function, classmethod))
        reason = why_not_importable(plain)
        if reason is None:
            registry.add(loader)
        else:
            registry.refuse(template, f"no worker could import {loader.name}: {reason}")
        return made

    return decorate
