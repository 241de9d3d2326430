"""How many bytes an entry of the memory backend is taken to use: an estimate, for `max_bytes`.

Counted are the key, the value, what the value's containers and the attributes of its plain objects hold, and the
entry itself. Something held twice by one value counts once, something held by two values twice. Memory that only an
extension knows of counts as far as its `__sizeof__` tells.
"""

import sys
from typing import Any

ENTRY_BYTES = 240
"""What is kept besides key and value: the slot, its expiry and its share of dicts and queues."""
_TENANT_BYTES = 72
"""What tenant and key are held together by."""
_MOST_PARTS = 1000
"""Parts of a value that are looked at; a larger one is taken to go on as it begins."""

_ATOMS = frozenset({str, bytes, int, float, bool, complex, bytearray, type(None)})


def entry_bytes(tenant_id: str | None, key: str, value: Any) -> int:
    """The estimate for one entry. A tenant's name is shared by its keys."""
    named = sys.getsizeof(key) if tenant_id is None else sys.getsizeof(key) + _TENANT_BYTES
    return ENTRY_BYTES + named + value_bytes(value)


def value_bytes(value: Any) -> int:
    """The estimate for one value."""
    if type(value) in _ATOMS:
        return sys.getsizeof(value)
    total, looked = 0, 0
    seen: set[int] = set()
    waiting = [value]
    while waiting and looked < _MOST_PARTS:
        part = waiting.pop()
        if id(part) not in seen:
            seen.add(id(part))
            looked += 1
            total += sys.getsizeof(part)
            if type(part) not in _ATOMS:
                waiting += _parts(part)
    own = sys.getsizeof(value)
    return total + (total - own) * len(waiting) // looked


def _parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    if isinstance(value, type):
        return []
    slots = (getattr(kind, "__slots__", ()) for kind in type(value).__mro__)
    names = [name for some in slots for name in ([some] if isinstance(some, str) else some)]
    held = [getattr(value, name, None) for name in names if name not in ("__dict__", "__weakref__")]
    return [*held, vars(value)] if hasattr(value, "__dict__") else held
