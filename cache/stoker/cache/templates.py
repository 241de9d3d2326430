"""Key templates such as `user:{user_id}`: how arguments become a key, and a key its arguments again.

Functions and their registry are in `loaders`. A template is literal text and named fields. One rule makes it
unambiguous: a field never contains ':', and between two fields there is at least one ':'. So what stands
between two colons holds at most one field, a key has one reading, and calls share one only if their arguments
are equal.

A field has a type, by default str. Its text is what `str()` says, but enums and literals are written as their
values, and datetimes without colons (`2024-05-01T103000+0000`). Only types whose text gives back an equal
value are admitted. A key in another spelling than ours (`user:007` for an int) is no key of the template.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import Enum
from typing import Any, Literal, cast, get_args, get_origin
from uuid import UUID

from stoker.cache.errors import LoaderError

SUPPORTED_TYPES = "str, int, float, bool, UUID, date, datetime, an Enum or a Literal"

_SEGMENT = re.compile(r"([^{}]*)(?:\{([^{}]*)\}([^{}]*))?")


@dataclass(frozen=True, slots=True)
class FieldType:
    """How the values of a field are written and read.

    Attributes:
        name: What an annotation calls it.
        accepts: The classes whose values it writes.
        write: The text of a value; ValueError or KeyError if it has none.
        read: The value of a text; ValueError or KeyError if it has none.
    """

    name: str
    accepts: type | tuple[type, ...]
    write: Callable[[Any], str]
    read: Callable[[str], Any]

    def text(self, value: Any) -> str:
        """The value as a part of a key.

        Raises:
            ValueError: It has no text that would give it back; says what to do.
        """
        if not isinstance(value, self.accepts):
            raise ValueError(f"is of type {type(value).__qualname__}, the field takes {self.name}")
        try:
            text = self.write(value)
        except KeyError:
            raise ValueError(f"is not one of the values of {self.name}") from None
        if not text or ":" in text:
            raise ValueError("must not be empty or contain ':', which ends a field")
        return text

    def value(self, text: str) -> Any:
        """The value that `text` was written from.

        Raises:
            ValueError: It was not written by this type.
        """
        try:
            value = self.read(text)
            written = self.write(value)
        except KeyError:
            raise ValueError(text) from None
        if written != text:
            raise ValueError(text)
        return value


def _float_text(value: float) -> str:
    number = float(value)
    if number != value:
        raise ValueError("is no exact float")
    return repr(number)


def _date_text(value: date) -> str:
    if isinstance(value, datetime):
        raise ValueError("has a time of day, the field takes date")
    return value.isoformat()


STR = FieldType("str", str, str.__str__, str)

_TYPES: dict[Any, FieldType] = {
    # the classes' own methods: a value of a subclass, such as a StrEnum, is written as the str that it equals
    str: STR,
    int: FieldType("int", int, int.__repr__, int),
    float: FieldType("float", (float, int), _float_text, float),
    UUID: FieldType("UUID", UUID, UUID.__str__, UUID),
    date: FieldType("date", date, _date_text, date.fromisoformat),
    datetime: FieldType(
        "datetime", datetime, lambda value: value.isoformat().replace(":", ""), datetime.fromisoformat
    ),
}


def field_type(annotation: Any) -> FieldType | None:
    """The field type of a parameter's annotation, or None if its values cannot become part of a key."""
    while supertype := getattr(annotation, "__supertype__", getattr(annotation, "__value__", None)):
        annotation = supertype  # NewType("UserId", int), or since Python 3.12 `type UserId = int`
    if annotation is bool:
        return _one_of("bool", (False, True), bool)
    if get_origin(annotation) is Literal:
        return _one_of(str(annotation).removeprefix("typing."), get_args(annotation), (str, int, Enum))
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return _one_of(annotation.__qualname__, tuple(annotation), annotation)
    return _TYPES.get(annotation) if isinstance(annotation, type) else None


def _one_of(name: str, values: tuple[Any, ...], accepts: type | tuple[type, ...]) -> FieldType | None:
    """A type of a handful of values, if each has a text of its own that a field can hold."""
    plain = [value.value if isinstance(value, Enum) else value for value in values]
    if not all(isinstance(value, str | int) for value in plain):
        return None
    texts = [str(value) for value in plain]
    read = dict(zip(texts, values, strict=True))
    write = dict(zip(values, texts, strict=True))
    if not len(read) == len(write) == len(values) or not all(text and ":" not in text for text in texts):
        return None
    return FieldType(name, accepts, write.__getitem__, read.__getitem__)


@dataclass(frozen=True, slots=True)
class _Segment:
    """What stands between two colons: literal text, in which at most one field is embedded."""

    before: str
    field: str = ""
    kind: FieldType = STR
    after: str = ""

    def regex(self) -> str:
        return re.escape(self.before) + ("([^:]+)" if self.field else "") + re.escape(self.after)

    def admits(self, text: str) -> bool:
        if not self.field:
            return text == self.before
        field = text[len(self.before) : len(text) - len(self.after)]
        if not field or text != f"{self.before}{field}{self.after}":
            return False
        try:
            self.kind.value(field)
        except ValueError:
            return False
        return True

    def overlaps(self, other: "_Segment") -> bool:
        """Whether some text could be both. The type of a field counts only against literal text."""
        if not self.field:
            return other.admits(self.before)
        if not other.field:
            return self.admits(other.before)
        starts = self.before.startswith(other.before) or other.before.startswith(self.before)
        return starts and (self.after.endswith(other.after) or other.after.endswith(self.after))


class Template:
    """One template.

    Args:
        text: Literal text and fields, such as `"report:{year}:{month}"`. Braces stand for nothing else.
        type_of: The type of a field; all are str without it. What it raises is passed on.

    Attributes:
        text: As given.
        fields: The names of the fields, in order.
        prefix: The literal text before the first field.

    Raises:
        LoaderError: The text is not a template; says why.
    """

    __slots__ = ("_fullmatch", "_last", "_segments", "_types", "fields", "prefix", "text")

    def __init__(self, text: str, type_of: Callable[[str], FieldType] = lambda _: STR) -> None:
        if not isinstance(text, str) or not text:
            raise LoaderError(f"template {text!r}: must be text such as 'user:{{user_id}}'")
        self.text = text
        self._segments = tuple(_segment(text, part, type_of) for part in text.split(":"))
        self._types = {segment.field: segment.kind for segment in self._segments if segment.field}
        self.fields = tuple(self._types)
        if text.count("{") > len(self.fields):
            raise LoaderError(f"template {text!r}: each field may appear once")
        self.prefix = text.partition("{")[0]
        self._last = _only_at_the_end(text, self._types)
        self._fullmatch = re.compile(":".join(segment.regex() for segment in self._segments)).fullmatch

    def texts(self, args: Mapping[str, Any]) -> dict[str, str]:
        """The text of each field. Other arguments are ignored.

        Raises:
            LoaderError: A value cannot become part of a key; names field, value and remedy.
        """
        texts: dict[str, str] = {}
        for name, kind in self._types.items():
            try:
                texts[name] = kind.text(args[name])
            except ValueError as exc:
                raise LoaderError(f"template {self.text!r}: {name}={_shown(args[name])} {exc}") from None
        return texts

    def key(self, args: Mapping[str, Any]) -> str:
        """The key of these arguments. Raises LoaderError as `texts`."""
        return self.filled(self.texts(args))

    def filled(self, texts: Mapping[str, str]) -> str:
        """The key with these texts in its fields."""
        return self.text.format_map(texts)

    def match(self, key: str) -> dict[str, Any] | None:
        """The arguments whose key this is, or None if it is no key of this template."""
        if self._last is not None:  # as with most templates
            text = key[len(self.prefix) :]
            fits = text and ":" not in text and key.startswith(self.prefix)
            return {self._last: text} if fits else None
        found = self._fullmatch(key)
        if found is None:
            return None
        texts = zip(self._types.items(), found.groups(), strict=True)
        try:
            return {name: kind.value(text) for (name, kind), text in texts}
        except ValueError:
            return None

    def match_all(self, keys: Sequence[str]) -> list[dict[str, Any]] | None:
        """As `match` for each key; None if one of them is no key of this template."""
        if (field := self._last) is None:
            found = [self.match(key) for key in keys]
            return None if None in found else cast("list[dict[str, Any]]", found)
        prefix, size = self.prefix, len(self.prefix)
        texts = [key[size:] for key in keys if key.startswith(prefix)]
        if len(texts) < len(keys) or not all(texts) or ":" in "".join(texts):
            return None
        return [{field: text} for text in texts]

    def overlaps(self, other: "Template") -> bool:
        """Whether some key could be of both. Fields in the same place overlap whatever their types."""
        pairs = zip(self._segments, other._segments, strict=False)
        same_length = len(self._segments) == len(other._segments)
        return same_length and all(mine.overlaps(theirs) for mine, theirs in pairs)

    def __repr__(self) -> str:
        return f"Template({self.text!r})"


def _only_at_the_end(text: str, types: Mapping[str, FieldType]) -> str | None:
    """The field, if it is the only one, ends the text, and is a str: then no regular expression is needed."""
    if list(types.values()) != [STR] or not text.endswith("}"):
        return None
    return next(iter(types))


def _segment(template: str, part: str, type_of: Callable[[str], FieldType]) -> _Segment:
    found = _SEGMENT.fullmatch(part)
    if found is None:
        reason = f"in {part!r} the braces must hold one field; separate two fields by ':'"
        raise LoaderError(f"template {template!r}: {reason}")
    before, name, after = found.groups()
    if name is None:
        return _Segment(before)
    if not name.isidentifier():
        raise LoaderError(f"template {template!r}: {{{name}}} must be a plain name, without format or index")
    return _Segment(before, name, type_of(name), after)


def _shown(value: object) -> str:
    if type(value).__repr__ is object.__repr__:
        return f"<{type(value).__qualname__}>"  # the default repr holds an address, which says nothing
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."
