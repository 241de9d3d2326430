"""Says whether a value may have been served, and counts."""

from typing import Any

from stoker.cache import PlacementMismatch
from stoker.worker.verify.world import KEYS, TENANTS, World


class Judge:
    """Compares what was served with what may be, and counts."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._counts: dict[str, int] = {}

    def add(self, name: str, more: int = 1) -> None:
        """Count something."""
        self._counts[name] = self._counts.get(name, 0) + more

    def take(self) -> dict[str, int]:
        """The counts since the last call."""
        counts, self._counts = self._counts, {}
        return counts

    def error(self, what: str, error: Exception) -> None:
        """Count an exception; note it, unless it refuses a process that places keys otherwise."""
        if isinstance(error, PlacementMismatch):
            self.add("refused")
            return
        self.add("errors")
        self._world.note(f"{what}: {type(error).__name__}: {error}")

    def served(self, how: str, tenant: int, key: int, least: int, got: Any) -> None:
        """Judge a value that was served to a read that began when `least` was acknowledged."""
        if (got["tenant"], got["key"]) != (tenant, KEYS[key]) or got["version"] > self._world.version(
            tenant, key
        ):
            self.add("wrong")
            self._world.note(f"wrong: {how} of {TENANTS[tenant]!r} {KEYS[key]} returned {got}")
        elif got["version"] < least:
            self.add("stale")
            name = f"{TENANTS[tenant]!r} {KEYS[key]}"
            self._world.note(f"stale: {how} of {name} returned {got['version']}, acknowledged was {least}")
