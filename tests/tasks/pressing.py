"""Servers that are as full as a test wants them."""

from stoker.cache.pressure import Node

LIMIT = 1_000_000


def used(share: float, evicted: int = 0) -> Node:
    """One of which such a share is used."""
    return Node(round(share * LIMIT), LIMIT, "volatile-lfu", 0, 1.0, 0, 10, evicted, 0)
