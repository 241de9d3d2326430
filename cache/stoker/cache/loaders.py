"""Loaders: functions that can produce the value of any key of their template, and the registry that finds them.

A loader is known by its template, so that any process that has imported its module can fill any of its keys.
What a template is stands in `templates`; leases, storing and the warming of many keys are the engine's work;
`cached` turns a function into its own loader.

    @loader("user:{user_id}", ttl=300, tags=["users", "user:{user_id}"])
    def load_user(user_id: int, tenant_id: str | None) -> dict[str, object]: ...

    @loader("popular:{name}", many=True)
    def load_popular(keys: list[LoadKey]) -> dict[str, object]: ...
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

from msgspec import Struct

from stoker.cache.errors import ConfigError, LoaderError
from stoker.cache.options import Seconds, ttl_ms
from stoker.cache.programs import Load, Program, unnoticed
from stoker.cache.signatures import TENANT, Signature, name_of, why_not_importable
from stoker.cache.templates import Template
from stoker.cache.tenancy import check_tags
from stoker.cache.worth import EvictWhen, Turn, turn_of

F = TypeVar("F", bound=Callable[..., Any])
RefreshIn = Literal["worker", "process"]


class LoadKey(Struct, frozen=True, gc=False):
    """One key that a loader with `many=True` is asked for.

    Attributes:
        key: The key, by which the loader answers.
        args: The fields of the template, by name. In such a loader they are all str.
        tenant_id: Whose value is wanted; None is the shared key space.
    """

    key: str
    args: dict[str, Any]
    tenant_id: str | None = None

    def __hash__(self) -> int:
        return hash((self.key, self.tenant_id))


@dataclass(frozen=True, slots=True)
class Loaded:
    """What came of loading some keys; each is in exactly one of the first three.

    Attributes:
        values: Key to value.
        errors: Key to what its loader raised.
        missing: Keys about which a loader with `many=True` said nothing.
        cost_us: Key to microseconds, for each key in `values`; keys loaded together share evenly.
    """

    values: dict[str, Any]
    errors: dict[str, Exception]
    missing: list[str]
    cost_us: dict[str, int]


class Loader:
    """A function together with the template of its keys and how its values are stored.

    Args:
        template: Such as `"user:{user_id}"`. Each parameter but `tenant_id` (and `self`, `cls`) must be a field.
        function: Called with the fields by name, and with `tenant_id` if it has such a parameter. It may be a
            coroutine function.
        ttl: Seconds its values live; None takes the cache's `default_ttl`.
        soft_ttl: Seconds after which they are refreshed while they are still served; below `ttl`.
        tags: Of each value. They may be templates too: `"user:{user_id}"`.
        many: The function is called with a list of `LoadKey` and returns a mapping of key to value.
        ttl_jitter: Share by which the TTLs vary, 0 to 0.5; None takes the cache's.
        stale_on_error: Whether a value that could not be refreshed is served until it expires; else it is dropped.
        rate: Keys a second that all workers together may load when they warm; None: any.
        concurrency: Batches that they may load at once; None: any.
        near: Whether processes may keep copies of its values, see `CacheConfig.near_size`; None: as `near_all` says.
        evict: When its entries go under memory pressure, against those of others: `"first"`, `"normal"`, `"last"` or
            `"never"`. The server's own policy, and the memory backend, know nothing of this.
        refresh_in: Who loads values anew: a `"worker"`, where the cache's hooks reach one, or the reader's `"process"`.

    Attributes:
        name: `module:qualname` of the function.
        match: The fields of a key of this template, converted; None for any other key.
        owner: Names its budget: `loader:` and the template.
        turn: What `evict` said.

    Raises:
        LoaderError: Template, function and tags do not fit together; says why and what to do.
        ConfigError: `ttl` or `soft_ttl` is out of range.
        InvalidName: A tag is not usable.
    """

    __slots__ = (
        "concurrency",
        "function",
        "many",
        "match",
        "name",
        "near",
        "owner",
        "rate",
        "refresh_in",
        "signature",
        "soft_ttl",
        "stale_on_error",
        "tags",
        "tags_vary",
        "template",
        "ttl",
        "ttl_jitter",
        "turn",
    )

    def __init__(
        self,
        template: str,
        function: Callable[..., Any],
        *,
        ttl: Seconds | None = None,
        soft_ttl: Seconds | None = None,
        tags: Sequence[str] = (),
        many: bool = False,
        ttl_jitter: float | None = None,
        stale_on_error: bool = True,
        refresh_in: RefreshIn = "worker",
        rate: float | None = None,
        concurrency: int | None = None,
        near: bool | None = None,
        evict: EvictWhen = "normal",
    ) -> None:
        fields = Template(template).fields
        self.signature = Signature(function, fields if many else None)
        self.signature.check_fields(template, fields)
        self.template = Template(template, self.signature.type_of)
        self.match = self.template.match
        self.function = function
        self.name = self.signature.name
        self.owner = f"loader:{template}"
        self.ttl = ttl
        self.soft_ttl = soft_ttl
        self.tags = check_tags(tags)
        self.tags_vary = any("{" in tag for tag in self.tags)
        self.many = many
        self.ttl_jitter = ttl_jitter
        self.stale_on_error = stale_on_error
        self.refresh_in = refresh_in
        self.near = near
        self.rate = rate
        self.concurrency = concurrency
        self.turn = turn_of(evict)
        self._check_ttls()
        self._check_tags()

    def _check_ttls(self) -> None:
        hard_ms = None if self.ttl is None else ttl_ms(self.ttl)
        soft_ms = None if self.soft_ttl is None else ttl_ms(self.soft_ttl, "soft_ttl")
        if hard_ms is not None and soft_ms is not None and soft_ms >= hard_ms:
            raise ConfigError("soft_ttl", self.soft_ttl, f"must be below ttl={self.ttl!r}")
        if self.ttl_jitter is not None and not 0 <= self.ttl_jitter <= 0.5:
            raise ConfigError("ttl_jitter", self.ttl_jitter, "give a number from 0 to 0.5, or None")
        if self.refresh_in not in ("worker", "process"):
            raise ConfigError("refresh_in", self.refresh_in, "choose 'worker' or 'process'")
        if self.rate is not None and not 0.01 <= self.rate <= 10**9:
            raise ConfigError("rate", self.rate, "give keys a second, 0.01 or more, or None")
        if self.concurrency is not None and not 1 <= self.concurrency <= 10**6:
            raise ConfigError("concurrency", self.concurrency, "give a number of batches, 1 or more, or None")

    def _check_tags(self) -> None:
        for tag in self.tags:
            for name in Template(tag).fields:
                if name not in self.template.fields:
                    known = ", ".join(self.template.fields) or "none"
                    raise LoaderError(
                        f"tag {tag!r} of {self.name}: {{{name}}} is no field of the template ({known})"
                    )

    def key(self, *args: Any, **kwargs: Any) -> str:
        """The key of a call with these arguments; `tenant_id` may be left out.

        Raises:
            LoaderError: An argument is missing or unknown, or its value cannot be part of a key.
        """
        try:
            bound = self.signature.bind_fields(args, kwargs)
        except TypeError as exc:
            raise LoaderError(str(exc)) from None
        return self.template.key(bound)

    def tags_for(self, args: Mapping[str, Any]) -> tuple[str, ...]:
        """The tags of the value with these fields. Raises LoaderError as `key`."""
        return self._tags_from(self.template.texts(args)) if self.tags_vary else self.tags

    def key_and_tags(self, args: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
        """Both at once, of arguments that are already bound. Raises LoaderError as `key`."""
        texts = self.template.texts(args)
        return self.template.filled(texts), self._tags_from(texts)

    def _tags_from(self, texts: Mapping[str, str]) -> tuple[str, ...]:
        return tuple([tag.format_map(texts) for tag in self.tags]) if self.tags_vary else self.tags

    def load(self, keys: Sequence[LoadKey], begins: Callable[[], None] = unnoticed) -> Program[Loaded]:
        """Ask the function for the values of some keys; `begins` is called before each call of it.

        An exception of the function fails its key, with `many=True` all keys of the call; so does an answer
        that is no mapping, or that names keys nobody asked for.

        Raises:
            ValueError: A key comes twice, as of two tenants; an answer by key could not tell them apart.
        """
        asked = {key.key: key for key in keys}
        if len(asked) < len(keys):
            raise ValueError("a key comes twice; ask for it in two calls")
        if self.many and asked:
            return (yield from self._load_together(asked, begins))
        return (yield from self._load_one_by_one(asked, begins))

    def _load_one_by_one(self, asked: Mapping[str, LoadKey], begins: Callable[[], None]) -> Program[Loaded]:
        loaded = Loaded({}, {}, [], {})
        for name, key in asked.items():
            tenant = {TENANT: key.tenant_id} if self.signature.takes_tenant else {}
            try:
                value, cost_us = yield Load(partial(self.function, **key.args, **tenant), begins)
            except Exception as exc:  # the caller decides what it means; the other keys are not concerned
                loaded.errors[name] = exc
            else:
                loaded.values[name], loaded.cost_us[name] = value, cost_us
        return loaded

    def _load_together(self, asked: Mapping[str, LoadKey], begins: Callable[[], None]) -> Program[Loaded]:
        try:
            answer, cost_us = yield Load(partial(self.function, list(asked.values())), begins)
            found = self._checked_answer(answer, asked)
        except Exception as exc:  # nothing tells which of the keys is to blame
            return Loaded({}, dict.fromkeys(asked, exc), [], {})
        missing = [name for name in asked if name not in found] if len(found) < len(asked) else []
        each_us: int = cost_us // len(asked)
        return Loaded(found, {}, missing, dict.fromkeys(found, each_us))

    def _checked_answer(self, answer: object, asked: Mapping[str, LoadKey]) -> dict[str, Any]:
        if not isinstance(answer, Mapping):
            shown = type(answer).__qualname__
            raise LoaderError(f"{self.name} returned {shown}; return a mapping of key to value")
        if not answer.keys() <= asked.keys():
            name = next(name for name in answer if name not in asked)
            raise LoaderError(f"{self.name} returned {name!r}, a key that it was not asked for")
        return dict(answer)

    def __repr__(self) -> str:
        return f"Loader({self.template.text!r}, {self.name})"


Match = tuple[Loader, dict[str, Any]]
"""The loader of a key, and the key's fields."""


class Registry:
    """The loaders of this process by template. Filled by imports, read by every thread; needs no lock.

    At most one loader matches a key, since overlapping templates are refused.
    """

    def __init__(self) -> None:
        # length of the literal prefix -> prefix -> template -> loader
        self._index: dict[int, dict[str, dict[str, Loader]]] = {}
        self._refused: dict[str, tuple[Template, str]] = {}

    def add(self, loader: Loader) -> None:
        """Register a loader. The same function, seen again by a reload of its module, replaces its old self.

        Raises:
            LoaderError: Some key could be of its template and of another function's.
        """
        for other in self.loaders():
            if other.template.overlaps(loader.template):
                if other.name != loader.name:
                    both = f"{loader.template.text!r} of {loader.name} and {other.template.text!r} of {other.name}"
                    raise LoaderError(f"templates {both} have keys in common; change the literal text of one")
                self._bucket(other).pop(other.template.text, None)
        self._bucket(loader)[loader.template.text] = loader
        self._refused.pop(loader.template.text, None)

    def find(self, key: str) -> Match | None:
        """The loader of a key and the key's fields; None if no template matches."""
        for length, by_prefix in tuple(self._index.items()):
            for loader in tuple(by_prefix.get(key[:length], {}).values()):
                args = loader.match(key)
                if args is not None:
                    return loader, args
        return None

    def turn_of(self, key: str) -> Turn:
        """When the key's entry is evicted, by the loader of its template."""
        found = self.find(key)
        return Turn.NORMAL if found is None else found[0].turn

    def find_all(self, keys: Sequence[str]) -> list[Match | None]:
        """As `find` for each key. Keys of one template are found faster."""
        first = self.find(keys[0]) if keys else None
        if first is not None and (fields := first[0].template.match_all(keys)) is not None:
            return [(first[0], args) for args in fields]
        found: list[Match | None] = []
        last: Loader | None = None
        for key in keys:
            args = last.match(key) if last is not None else None
            match = (last, args) if last is not None and args is not None else self.find(key)
            if match is not None:
                last = match[0]
            found.append(match)
        return found

    def templates(self) -> list[str]:
        """The texts of all registered templates."""
        return [loader.template.text for loader in self.loaders()]

    def refuse(self, template: str, reason: str) -> None:
        """Remember why there is no loader for the keys of a template."""
        self._refused[template] = (Template(template), reason)

    def why_not(self, key: str) -> str | None:
        """The reason given for a key that `find` does not find; None if there was none."""
        for template, reason in tuple(self._refused.values()):
            if template.match(key) is not None:
                return reason
        return None

    def _bucket(self, loader: Loader) -> dict[str, Loader]:
        prefix = loader.template.prefix
        return self._index.setdefault(len(prefix), {}).setdefault(prefix, {})

    def loaders(self) -> list[Loader]:
        """All that are registered."""
        prefixes = [
            bucket for by_prefix in tuple(self._index.values()) for bucket in tuple(by_prefix.values())
        ]
        return [loader for bucket in prefixes for loader in tuple(bucket.values())]


default_registry = Registry()
"""Where `@loader` and `cached` register, and where the engine looks."""


def loader(
    template: str,
    *,
    ttl: Seconds | None = None,
    soft_ttl: Seconds | None = None,
    tags: Sequence[str] = (),
    many: bool = False,
    ttl_jitter: float | None = None,
    stale_on_error: bool = True,
    refresh_in: RefreshIn = "worker",
    rate: float | None = None,
    concurrency: int | None = None,
    near: bool | None = None,
    evict: EvictWhen = "normal",
) -> Callable[[F], F]:
    """Register the decorated function as the loader of a template; the function itself is not changed.

    The arguments, and the errors besides the following, are those of `Loader`.

    Raises:
        LoaderError: No worker could import the function, or its template overlaps another one.
    """

    def register(function: F) -> F:
        reason = why_not_importable(function)
        if reason is not None:
            raise LoaderError(f"no worker could import {name_of(function)}: {reason}")
        made = Loader(
            template,
            function,
            ttl=ttl,
            soft_ttl=soft_ttl,
            tags=tags,
            many=many,
            ttl_jitter=ttl_jitter,
            stale_on_error=stale_on_error,
            refresh_in=refresh_in,
            rate=rate,
            concurrency=concurrency,
            near=near,
            evict=evict,
        )
        default_registry.add(made)
        return function

    return register
