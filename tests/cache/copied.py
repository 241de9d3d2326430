"""Waiting until a cache has copies, and looking what becomes of them."""

import time

from stoker.cache import Cache

BOUND_S = 0.1
"""The default of `near_bound`."""


def copied(cache: Cache, *keys: str, tenant_id: str | None = None) -> None:
    """Read until there are copies."""

    deadline = time.monotonic() + 20
    while not all(state(cache, key, tenant_id) == "served" for key in keys):
        assert time.monotonic() < deadline, cache.stats()
        for key in keys:
            cache.get(key, tenant_id)


def state(cache: Cache, key: str, tenant_id: str | None = None) -> str:
    assert cache._core.near is not None
    return cache._core.near.state_of((tenant_id, key))
