"""What a tenant, a key and a tag may be called, and how a tenant becomes one field of a Redis key.

A tenant's field holds neither ':' nor glob characters, so no name of one tenant can reach another's entries.
"""

from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote, unquote

from stoker.cache.errors import InvalidName

MAX_KEY_BYTES = 1024
MAX_TENANT_BYTES = 512
MAX_TAG_BYTES = 256
MAX_TAGS = 64


Place = str | tuple[str, str, object]
"""Where an entry is in a table of this process: a key of the shared key space; or a tenant, a key and `OURS`."""
OURS: Final = object()
"""So that nothing a caller gives as a key, were it a tuple, is equal to where another tenant's entry is."""


def check_key(key: str) -> str:
    """Return the key as a plain str, or raise InvalidName unless it is a str of 1 to 1,024 UTF-8 bytes."""
    if type(key) is not str:
        if not isinstance(key, str):
            raise InvalidName("key", key, "must be a str")
        key = "".join((key,))  # what it holds, whatever its class makes of its length and its format
    if not key or len(key) * 4 > MAX_KEY_BYTES or not key.isascii():
        _check_bytes("key", key, MAX_KEY_BYTES)
    return key


def check_keys(keys: Iterable[str]) -> list[str]:
    """The keys in order, each as of `check_key`."""
    names = list(keys)
    return names if all_plain(names) else [check_key(key) for key in names]


def all_plain(keys: Collection[Any]) -> bool:
    """Whether these are keys beyond doubt, by one look at all of them. If not, `check_key` each."""
    try:
        text = "".join(keys)
    except TypeError:  # not all are str
        return False
    return (
        text.isascii()
        and "" not in keys
        and (len(text) <= MAX_KEY_BYTES or max(map(len, keys)) <= MAX_KEY_BYTES)
    )


def check_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Return the tags without repeats, in order. At most 64, each 1 to 256 UTF-8 bytes without NUL."""
    if not tags:
        return ()
    if isinstance(tags, str):
        raise InvalidName("tags", tags, "give a list of tags, not one str")
    unique = tuple(dict.fromkeys(tags))
    if len(unique) > MAX_TAGS:
        raise InvalidName("tags", unique, f"at most {MAX_TAGS} tags an entry or call")
    for tag in unique:
        if not isinstance(tag, str) or "\0" in tag:
            raise InvalidName("tag", tag, "must be a str without NUL")
        _check_bytes("tag", tag, MAX_TAG_BYTES)
    return unique


def tenant_field(tenant_id: str | None) -> str:
    """The tenant as it stands in keys and bans: percent-encoded; empty for the shared key space."""
    if tenant_id is None:
        return ""
    if not isinstance(tenant_id, str):
        raise InvalidName("tenant_id", tenant_id, "must be a str, or None for the shared key space")
    return _encoded(tenant_id)


@lru_cache(maxsize=4096)
def _encoded(tenant_id: str) -> str:
    _check_bytes("tenant_id", tenant_id, MAX_TENANT_BYTES)
    return quote(tenant_id, safe="").replace("~", "%7E")


def place_of(tenant_id: str | None, key: str) -> Place:
    """Where the entry is. Neither is checked."""
    return key if tenant_id is None else (tenant_id, key, OURS)


def name_of(place: Place) -> tuple[str | None, str]:
    """Its tenant and key."""
    return (None, place) if isinstance(place, str) else place[:2]


def tenant_of(field: str) -> str | None:
    """The tenant that `tenant_field` encoded."""
    return unquote(field) if field else None


def _check_bytes(what: str, name: str, most: int) -> None:
    if not name:
        raise InvalidName(what, name, "must not be empty")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise InvalidName(what, name, "must be valid Unicode; it holds a lone surrogate") from None
    if size > most:
        raise InvalidName(what, name, f"must be at most {most} bytes of UTF-8, is {size}")
