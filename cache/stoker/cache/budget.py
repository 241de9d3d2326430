"""What a warm may ask of an origin. `warm` asks before each unit; who warms from several processes shares a budget.

The tasks keep theirs on the state server; without one a warm goes as fast as its loaders do.
"""

from typing import Any, NamedTuple, Protocol

from stoker.cache.loaders import Loader

BURST_S = 0.25
"""The most keys at once are those of so many seconds at the rate."""


class Limit(NamedTuple):
    """How much somebody may be asked for: a loader, by all who warm, or all loaders, by one plan.

    Attributes:
        owner: Names whose limit it is: `loader:<template>` or `plan:<name>`.
        rate: Keys a second; None: any.
        concurrency: Units at once; None: any.
    """

    owner: str
    rate: float | None = None
    concurrency: int | None = None

    def most_keys(self, batch: int) -> int:
        """Keys that one unit may have."""
        return batch if self.rate is None else max(1, min(batch, int(self.rate * BURST_S)))


def limit_of(loader: Loader) -> Limit:
    """The limit of a loader."""
    return Limit(loader.owner, loader.rate, loader.concurrency)


class Budget(Protocol):
    """Units of work, as far as all processes together may do them. `unit` names one while it is under way."""

    def ask(self, limit: Limit, unit: str, keys: int) -> float:
        """Take what a unit of so many keys needs. 0: it may begin; else seconds to wait before asking again."""
        ...

    def done(self, limit: Limit, unit: str, *, asked: int, loaded: int, failed: int, seconds: float) -> float:
        """Tell how it went, give back what it did not need. Returns seconds to rest before the next."""
        ...


class Unlimited:
    """For who warms alone."""

    def ask(self, *_: Any, **__: Any) -> float:
        return 0.0

    def done(self, *_: Any, **__: Any) -> float:
        return 0.0
