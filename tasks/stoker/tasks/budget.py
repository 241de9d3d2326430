"""The origin's protection: how fast, and how many at once, the whole fleet may call each loader when it warms.

Kept on the state server: a token bucket and the batches under way for each loader, and how it has been doing. When its
errors or its time per key rise, everybody slows down, to a tenth at most, and speeds up again as it recovers.
"""

from secrets import token_hex
from typing import Any

from stoker.cache import keys
from stoker.cache.budget import BURST_S
from stoker.cache.loaders import Loader
from stoker.tasks import state_server
from stoker.tasks.state_server import bounded


class FleetBudget:
    """One process's access to the budgets of a namespace.

    Args:
        url: The state server's.
        longest: Seconds after which a batch that nobody ended counts as over: its worker was killed.
    """

    def __init__(self, url: str, namespace: str, longest: float) -> None:
        self._namespace = namespace
        self._longest_ms = round(longest * 1000)
        self._client: Any = state_server.connect(url)
        self._ask = state_server.script(self._client, "budget_ask")
        self._done = state_server.script(self._client, "budget_done")
        self._under_way: dict[str, str] = {}

    def ask(self, loader: Loader, keys: int) -> float:
        """Take what a batch needs. 0: it may begin; else seconds to wait before asking again.

        Raises:
            StateUnavailable: The state server does not answer.
        """
        batch = token_hex(8)
        burst = max(1.0, (loader.rate or 0) * BURST_S, keys)
        args = (loader.rate or 0, burst, loader.concurrency or 0, keys, batch, self._longest_ms)
        with bounded():
            wait_ms = int(self._ask(keys=self._keys(loader), args=args))
        if wait_ms == 0:
            self._under_way[loader.name] = batch
        return wait_ms / 1000

    def done(self, loader: Loader, *, asked: int, loaded: int, failed: int, seconds: float) -> float:
        """Tell how the batch went. Returns seconds to rest: a loader without a rate is slowed down by pauses.

        Raises:
            StateUnavailable: The state server does not answer; the batch counts as under way for a while.
        """
        called = loaded + failed
        per_key_us = round(seconds * 1e6 / called) if called else 0
        batch = self._under_way.pop(loader.name, "")
        args = (batch, asked - called, called, failed, per_key_us)
        with bounded():
            factor = float(self._done(keys=self._keys(loader), args=args))
        return 0.0 if loader.rate is not None else seconds * (1 / factor - 1)

    def _keys(self, loader: Loader) -> tuple[str, str]:
        template = loader.template.text
        return keys.budget(self._namespace, template), keys.under_way(self._namespace, template)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()
