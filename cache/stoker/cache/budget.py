"""What a warm may ask of an origin. `warm` asks before each batch; who warms from several processes shares a budget.

The tasks keep theirs on the state server; without one a warm goes as fast as its loaders do.
"""

from typing import Protocol

from stoker.cache.loaders import Loader

BURST_S = 0.25
"""The most keys at once are those of so many seconds at the loader's rate."""


class Budget(Protocol):
    """Calls of loaders, as far as all processes together may make them."""

    def ask(self, loader: Loader, keys: int) -> float:
        """Take what a batch of so many keys needs. 0: it may begin; else seconds to wait before asking again."""
        ...

    def done(self, loader: Loader, *, asked: int, loaded: int, failed: int, seconds: float) -> float:
        """Tell how the batch went, give back what it did not need. Returns seconds to rest before the next."""
        ...


class Unlimited:
    """For who warms alone."""

    def ask(self, loader: Loader, keys: int) -> float:  # noqa: ARG002
        return 0.0

    def done(self, loader: Loader, *, asked: int, loaded: int, failed: int, seconds: float) -> float:  # noqa: ARG002
        return 0.0


def most_keys(loader: Loader, batch: int) -> int:
    """Keys that one batch of this loader may have."""
    return batch if loader.rate is None else max(1, min(batch, int(loader.rate * BURST_S)))
