"""Where values come from: slow loaders that read the truth, registered and not."""

import asyncio
import random
import time
from contextvars import ContextVar
from typing import Any

from stoker.cache import LoadKey, loader
from stoker.worker.verify.world import KEYS, TENANTS, World, value

TTL_S = 60.0
SHORT_TTL_S = 1.0


def loader_pause(chance: random.Random) -> float:
    """Seconds: half of the loads take no time, one in thirty up to 0.4 s."""
    kind = chance.random()
    if kind < 0.5:
        return 0.0
    return chance.random() * (0.003 if kind < 0.8 else 0.03 if kind < 0.97 else 0.4)


def often_the_same(chance: random.Random) -> int:
    """A key, the first ones far more often: races need two callers at one key."""
    return min(int(chance.expovariate(1 / 15)), len(KEYS) - 1)


def short_or_long(chance: random.Random) -> float:
    """A TTL in seconds: now and then one that a value outlives in a run, and before that is refreshed early."""
    return SHORT_TTL_S if chance.random() < 0.3 else TTL_S


_loads: ContextVar[list[int] | None] = ContextVar("loads", default=None)


def count_loads() -> list[int]:
    """A number that grows with each load for this caller, in this thread or task, until this is called again."""
    mine = [0]
    _loads.set(mine)
    return mine


def _counted() -> None:
    if (mine := _loads.get()) is not None:
        mine[0] += 1


def load(world: World, chance: random.Random, tenant: int, key: int, longest: float = 0.0) -> dict[str, Any]:
    """Read the source of truth, slowly: what matters is when the version is read. `longest` seconds slower still."""
    _counted()
    time.sleep(loader_pause(chance) / 4)
    version = world.version(tenant, key)
    time.sleep(loader_pause(chance) + chance.random() * longest)
    return value(tenant, key, version)


async def load_async(world: World, chance: random.Random, tenant: int, key: int) -> dict[str, Any]:
    """As `load`, for an event loop."""
    _counted()
    await asyncio.sleep(loader_pause(chance) / 4)
    version = world.version(tenant, key)
    await asyncio.sleep(loader_pause(chance))
    return value(tenant, key, version)


_source: tuple[World, random.Random] | None = None


def read_from(world: World, seed: int) -> None:
    """Let the registered loaders of this process read this world."""
    global _source
    _source = world, random.Random(seed)


def _truth(key: LoadKey) -> dict[str, Any]:
    assert _source is not None
    return load(*_source, TENANTS.index(key.tenant_id), KEYS.index(key.key))


@loader("user:{group}:{n}", ttl=TTL_S, tags=["group {group}"], many=True)
def load_users(keys: list[LoadKey]) -> dict[str, Any]:
    """All versions are read first, then the answer is slow."""
    return {key.key: _truth(key) for key in keys}


@loader("post:{group}:{n}", ttl=TTL_S, soft_ttl=0.5, tags=["group {group}"])
def load_post(group: str, n: str, tenant_id: str | None) -> dict[str, Any]:
    """One at a time, and refreshed in the background after half a second."""
    return _truth(LoadKey(f"post:{group}:{n}", {}, tenant_id))
