"""The arguments of a script by which `groups.lua` stores many entries together. For `protocol`."""

from collections.abc import Sequence
from itertools import groupby


def grouped(
    entries: Sequence[bytes], blobs: Sequence[bytes], ttls_ms: Sequence[int]
) -> list[bytes | str | int]:
    """Entries in the order in which they are given: what has one TTL in a row is one group."""
    pairs: list[bytes] = [b""] * (2 * len(entries))
    pairs[::2] = entries
    pairs[1::2] = blobs
    args: list[bytes | str | int] = []
    groups = first = 0
    for ttl_ms, same in groupby(ttls_ms):
        count = len(list(same))
        expiry = ("PX", ttl_ms) if ttl_ms else ()
        args += (1 + 2 * count + len(expiry), count, *pairs[2 * first : 2 * (first + count)], *expiry)
        groups += 1
        first += count
    return [groups, *args]
