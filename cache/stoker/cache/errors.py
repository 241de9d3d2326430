"""Every error the cache raises, in one tree.

    CacheError
    ├── ConfigError (ValueError)           a setting is wrong; nothing was done
    │   └── PlacementMismatch              this process would place keys elsewhere than the others do
    ├── InvalidName (ValueError)           a key, tenant, tag or namespace cannot be used
    ├── InvalidPattern (ValueError)        a pattern does not follow the grammar
    ├── ValueNotSerializable (TypeError)   a value cannot be encoded; nothing was stored
    ├── LoaderError                        a loader cannot be registered or found
    └── CacheUnavailable                   the server did not answer, or answered that it cannot
        └── InvalidationNotAcknowledged    a write whose effect is unknown: repeat it

Bad input also is the built-in error a Python programmer would catch for it. Errors cross process
borders in Celery, so the arguments of each rebuild it.
"""


class CacheError(Exception):
    """Base of all errors of the cache."""


class ConfigError(CacheError, ValueError):
    """A setting is wrong."""

    def __init__(self, field: str, value: object, remedy: str) -> None:
        super().__init__(field, value, remedy)
        self.field = field
        self.value = value
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.field}={self.value!r}: {self.remedy}"


class PlacementMismatch(ConfigError):
    """The namespace is open with other settings; two such processes would delete different keys."""


class InvalidName(CacheError, ValueError):
    """A key, tenant, tag or namespace cannot be used."""

    def __init__(self, what: str, value: object, remedy: str) -> None:
        super().__init__(what, value, remedy)
        self.what = what
        self.value = value
        self.remedy = remedy

    def __str__(self) -> str:
        shown = repr(self.value)
        if len(shown) > 80:
            shown = shown[:77] + "..."
        return f"{self.what} {shown}: {self.remedy}"


class InvalidPattern(CacheError, ValueError):
    """A pattern does not follow the grammar of `stoker.cache.patterns`."""

    def __init__(self, pattern: str, position: int, reason: str) -> None:
        super().__init__(pattern, position, reason)
        self.pattern = pattern
        self.position = position
        self.reason = reason

    def __str__(self) -> str:
        shown = self.pattern if len(self.pattern) <= 80 else self.pattern[:77] + "..."
        return f"pattern {shown!r}, position {self.position}: {self.reason}"


class ValueNotSerializable(CacheError, TypeError):
    """A value cannot be encoded; nothing was stored."""

    def __init__(self, key: str, type_name: str, reason: str) -> None:
        super().__init__(key, type_name, reason)
        self.key = key
        self.type_name = type_name
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"value of key {self.key!r} ({self.type_name}) cannot be encoded: {self.reason}. "
            "Store None, bool, int, float, str, bytes, list, dict, datetime, a dataclass or a msgspec.Struct"
        )


class LoaderError(CacheError):
    """A loader cannot be registered, found or given its key."""


class CacheUnavailable(CacheError):
    """The server did not answer in time, or answered that it cannot serve now."""

    def __init__(self, operation: str, reason: str) -> None:
        super().__init__(operation, reason)
        self.operation = operation
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.operation}: {self.reason}"


class InvalidationNotAcknowledged(CacheUnavailable):
    """The server did not confirm an invalidation or a `set`. It may or may not have happened: repeat it."""

    def __str__(self) -> str:
        return f"{self.operation} was not acknowledged ({self.reason}); it may or may not have happened: repeat it"
