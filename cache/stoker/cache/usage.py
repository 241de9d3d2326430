"""How full a cache is: entries and memory, on Redis from the server's own figures."""

from typing import NamedTuple

from stoker.cache import memory_use, scan
from stoker.cache.scan import Link
from stoker.cache.wire import Operation

_FEW = 1000
"""Keys in the database up to which entries are counted one by one."""
_SAMPLE = 400
"""Random keys that tell which share of a larger database are entries: within 5 points, 19 times out of 20."""


class Usage(NamedTuple):
    """Entries; bytes used, and usable at most (0: no limit); share of the limit that is used; evictions so far."""

    entries: int
    used_bytes: int
    limit_bytes: int
    share: float
    evictions: int


def redis_usage(link: Link) -> Operation[Usage]:
    """Ask the server."""
    facts = memory_use.facts((yield (("INFO", "memory", "stats"),)).reply())
    use = memory_use.of(facts)
    entries = yield from _entries(link)
    return Usage(entries, use.used, use.limit, use.share, memory_use.whole(facts, "evicted_keys"))


def _entries(link: Link) -> Operation[int]:
    size = int((yield (("DBSIZE",),)).reply())
    if size <= _FEW:
        return sum((yield from scan.count(link, _FEW)).values())
    answer = yield (("RANDOMKEY",),) * _SAMPLE
    names = [name for name in answer.replies if isinstance(name, bytes)]
    ours = sum(link.names.split(name) is not None for name in names)
    return round(size * ours / len(names)) if names else 0
