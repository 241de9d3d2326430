"""What the parameters of a function say about its keys. For `loaders` and `cached` only.

Three kinds of parameters are known: fields of the template, whose annotation says how they are written in a key;
`tenant_id`, which chooses the key space and is no part of the key; and the `self` or `cls` of a method, which is
no part of anything. Any other would let two different calls share a key, and is refused.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_type_hints

from stoker.cache.errors import LoaderError
from stoker.cache.templates import STR, SUPPORTED_TYPES, FieldType, field_type

TENANT = "tenant_id"


def name_of(function: Callable[..., Any]) -> str:
    """`module:qualname`, by which people and reports know a loader."""
    return f"{function.__module__}:{function.__qualname__}"


def why_not_importable(function: Callable[..., Any]) -> str | None:
    """Why no other process would find this function by importing its module; None if it would."""
    if not inspect.isfunction(function):
        return None  # and no loader either, as `Signature` says
    qualname = function.__qualname__
    if function.__name__ == "<lambda>":
        return "it is a lambda; write a function at module level"
    if "<locals>" in qualname:
        return f"it is local to {qualname.partition('.<locals>')[0]}; move it to module level"
    if "." in qualname:
        return f"it belongs to the class {qualname.rpartition('.')[0]}; write a function at module level"
    if function.__module__ == "__main__":
        return "its module is the script that was started (__main__); move it to a module that workers import"
    return None


class Signature:
    """The parameters of a function, as far as keys are concerned.

    Args:
        function: A plain synchronous function.
        batch_fields: Of a function that takes a list of keys instead of one key's fields: the fields, all str.

    Attributes:
        name: `module:qualname`.
        names: The parameters that must be fields of the template, in order.
        takes_self: Whether the first parameter is the `self` or `cls` of a method.
        takes_tenant: Whether there is a parameter `tenant_id`.

    Raises:
        LoaderError: The function is of another kind, or a parameter has no name to be passed by.
    """

    __slots__ = (
        "_bindable",
        "_count",
        "_function",
        "_positional",
        "name",
        "names",
        "takes_self",
        "takes_tenant",
    )

    def __init__(self, function: Callable[..., Any], batch_fields: Sequence[str] | None = None) -> None:
        if not inspect.isfunction(function):
            raise LoaderError(f"{function!r} is no plain function; decorate the function itself")
        self.name = name_of(function)
        self._function = function
        self._refuse_what_is_no_value()
        parameters = list(inspect.signature(function).parameters.values())
        self.takes_self = bool(parameters) and parameters[0].name in ("self", "cls") and _in_class(function)
        if batch_fields is not None:
            self._check_takes_one_list()
            parameters = [inspect.Parameter(f, inspect.Parameter.POSITIONAL_OR_KEYWORD) for f in batch_fields]
        elif self.takes_self:
            del parameters[0]
        for parameter in parameters:
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                shown = str(parameter).partition(":")[0]
                raise LoaderError(f"{self.name}: parameter {shown} cannot be passed by name; give it one")
        self._bindable = inspect.Signature(parameters)
        self._count = len(parameters)
        self._positional = tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)
        self.takes_tenant = TENANT in self._bindable.parameters
        self.names = tuple(p.name for p in parameters if p.name != TENANT)

    def _refuse_what_is_no_value(self) -> None:
        if inspect.isgeneratorfunction(self._function) or inspect.isasyncgenfunction(self._function):
            raise LoaderError(f"{self.name} is a generator, which can be read only once; return a list")

    def _check_takes_one_list(self) -> None:
        try:
            inspect.signature(self._function).bind([])
        except TypeError:
            reason = "a loader with many=True is called with one argument, a list of LoadKey"
            raise LoaderError(f"{self.name}: {reason}") from None

    def check_fields(self, template: str, fields: Sequence[str]) -> None:
        """Refuse a template whose fields are not exactly the parameters that must be fields."""
        where = f"template {template!r} of {self.name}"
        for field in fields:
            if field == TENANT:
                raise LoaderError(f"{where}: remove {{{TENANT}}}; tenants have separate key spaces already")
            if field not in self.names:
                known = ", ".join(self.names) or "none"
                raise LoaderError(f"{where}: {{{field}}} is not among the parameters ({known})")
        for name in self.names:
            if name not in fields:
                reason = "calls that differ only in it would share a key; add it to the template"
                raise LoaderError(f"{where}: parameter {name} is missing: {reason}")

    def type_of(self, name: str) -> FieldType:
        """How the values of a parameter are written, by its annotation; str without one.

        Raises:
            LoaderError: The annotation cannot be resolved, or its values cannot be part of a key.
        """
        annotation = self._bindable.parameters[name].annotation
        if annotation is inspect.Parameter.empty:
            return STR
        found = field_type(self._resolved(name, annotation))
        if found is None:
            shown = inspect.formatannotation(annotation)
            remedy = f"a field is {SUPPORTED_TYPES} of str or int values without ':'"
            raise LoaderError(f"{self.name}: {name}: {shown} cannot be part of a key; {remedy}")
        return found

    def return_type(self) -> Any:
        """The return annotation; Any without one.

        Raises:
            LoaderError: It names something that does not exist at run time.
        """
        annotation = inspect.signature(self._function).return_annotation
        if annotation is inspect.Signature.empty:
            return Any
        return self._resolved("return", annotation, include_extras=True)

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Every argument of a call by name, defaults included, without `self`.

        Raises:
            TypeError: As the call itself would: names the argument that is missing, unknown or given twice.
        """
        return self._bound_by_position(args, kwargs) or self._bound(self._bindable.bind, args, kwargs)

    def bind_fields(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """As `bind`, but `tenant_id` may be missing even where the function insists on it."""
        bound = self._bound_by_position(args, kwargs) or self._bound(
            self._bindable.bind_partial, args, kwargs
        )
        missing = [name for name in self.names if name not in bound]
        if missing:
            raise TypeError(f"{self.name}: missing {', '.join(missing)}")
        return bound

    def _bound_by_position(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
        """The usual case, several times as fast as the general one: every argument in its place."""
        if kwargs or len(args) != len(self._positional) or len(args) != self._count:
            return None
        return dict(zip(self._positional, args, strict=True))

    def _bound(
        self, bind: Callable[..., inspect.BoundArguments], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> dict[str, Any]:
        try:
            bound = bind(*args, **kwargs)
        except TypeError as exc:
            raise TypeError(f"{self.name}: {exc}") from None
        bound.apply_defaults()
        return bound.arguments

    def _resolved(self, what: str, annotation: Any, *, include_extras: bool = False) -> Any:
        def holder() -> None: ...

        # one annotation at a time: another one that cannot be resolved is no concern of this one
        holder.__annotations__ = {what: annotation}
        names = inspect.unwrap(self._function).__globals__
        try:
            return get_type_hints(holder, names, include_extras=include_extras)[what]
        except Exception as exc:  # NameError for what is imported for type checkers only, and the like
            reason = f"{what}: {annotation!r} cannot be resolved ({exc}); import it at run time"
            raise LoaderError(f"{self.name}: {reason}") from exc


def _in_class(function: Callable[..., Any]) -> bool:
    parent = function.__qualname__.rpartition(".")[0]
    return bool(parent) and not parent.endswith("<locals>")
