"""The contract of every cache, kept by one that reads what it has stored from a copy."""

import time
from functools import partial
from typing import Any

import pytest

from stoker.cache import Cache
from tests.cache.conftest import MakeCache
from tests.cache.test_contract import *  # noqa: F403 - they are run here with the cache below

_SETTLED_WITHIN_S = 5.0


class Settled(Cache):
    """Stores, and has a copy before it returns."""

    def set(self, key: Any, value: Any, tenant_id: str | None = None, *args: Any, **options: Any) -> bool:
        stored = super().set(key, value, tenant_id, *args, **options)
        self._settle(key, tenant_id)
        return stored

    def set_many(self, values: Any, tenant_id: str | None = None, *args: Any, **options: Any) -> bool:
        stored = super().set_many(values, tenant_id, *args, **options)
        for key in list(values)[:10]:
            self._settle(key, tenant_id)
        return stored

    def get_or_load(
        self, key: Any, load: Any = None, tenant_id: str | None = None, *args: Any, **options: Any
    ) -> Any:
        value = super().get_or_load(key, load, tenant_id, *args, **options)
        self._settle(key, tenant_id)
        return value

    def _settle(self, key: str, tenant_id: str | None) -> None:
        backend = self._core.backend
        assert self._core.near is not None
        deadline = time.monotonic() + _SETTLED_WITHIN_S
        while time.monotonic() < deadline:
            hit = self._run(backend.read(tenant_id, key))  # not counted as a read
            if hit is None or hit.stale or hit.left_ms < 1000:
                return  # no copy is made of what is gone before long
            if self._core.near.state_of((tenant_id, key)) == "served":
                return
            time.sleep(0.001)
        raise AssertionError(f"there is no copy of {key!r} within {_SETTLED_WITHIN_S} s")


@pytest.fixture(params=["redis", pytest.param("clustered", marks=pytest.mark.slow)])
def make_cache(request: pytest.FixtureRequest) -> MakeCache:
    """Caches that keep copies, of what is on a server and on a cluster."""
    return partial(request.getfixturevalue(f"make_{request.param}"), Settled, near_size=100)


def test_it_is_a_copy_that_is_read(cache: Cache) -> None:
    cache.set("k", [1])
    assert cache.get("k") == [1]
    assert cache.get_many(["k"]) == {"k": [1]}
    assert cache.stats().near_hits == 2
