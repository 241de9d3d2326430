"""Processes that go by the map, and one that changes where keys live, interleaved command by command.

On a cluster of three nodes and on one server; with all else that `cluster_world` lets happen. A tenant is pinned and
let go.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from stoker.cache import CacheError
from stoker.cache.reshard import Change
from stoker.cache.shards import Placement
from tests.cache.cluster_world import SHARDS, Steps, World

TENANT = "acme"


class Resharding(World):
    """A history of changes."""

    names = ((None, "k0"), (TENANT, "k0"), (TENANT, "k1"))
    changes = 0

    def placements(self) -> list[Placement]:
        """Three go by the map; one was told a number."""
        return [*(Placement(default=SHARDS[0]) for _ in range(3)), Placement(SHARDS[1])]

    def processes(self) -> list[Callable[[], Steps]]:
        return [*super().processes(), partial(self.change, Placement(default=SHARDS[0]))]

    def change(self, placement: Placement) -> Steps:
        """Change the placement again and again; now and then die in the middle, and begin anew knowing nothing."""
        while True:
            backend = self.backend(placement)
            for _ in range(self.chance.randrange(60)):
                yield None
            operation = self.drive(backend.change(self._any_change()))
            dies_at = self.chance.choice([None, self.chance.randrange(60)])
            with suppress(CacheError):
                for at, about in enumerate(operation):
                    if at == dies_at:
                        operation.close()
                        break
                    yield about
                else:
                    self.changes += 1
                    yield from self.drive(backend.tidy({}, 100))

    def finish(self, steps: Steps) -> Any:
        """Let a process do something to its end, alone."""
        try:
            while True:
                next(steps)
        except StopIteration as stop:
            return stop.value

    def _any_change(self) -> Change:
        if self.chance.random() < 0.5:
            return Change(self.chance.choice(SHARDS), unpin=(TENANT,))
        return Change(pin={TENANT: self.chance.randrange(min(SHARDS))})


class OnOneServer(Resharding):
    """The same on one server."""

    nodes = 1
