"""The origin's protection: how fast, and how much at once, the whole fleet may warm by each loader and each plan.

Kept on the state server: a token bucket and the units under way for each, and how it has been doing. When its errors or
its time per key rise, everybody slows down, to a tenth at most, and speeds up again as it recovers.
"""

from typing import Any

from stoker.cache import keys
from stoker.cache.budget import BURST_S, Limit
from stoker.tasks import state_server
from stoker.tasks.state_server import patiently


class FleetBudget:
    """One process's access to the budgets of a namespace.

    Args:
        url: The state server's.
        longest: Seconds after which a unit that nobody ended counts as over: its worker was killed.
        patience: Seconds for which a state server that does not answer is asked again.
    """

    def __init__(self, url: str, namespace: str, longest: float, patience: float = 0.0) -> None:
        self._namespace = namespace
        self._longest_ms = round(longest * 1000)
        self._patience = patience
        self._client: Any = state_server.connect(url)
        self._ask = state_server.script(self._client, "budget_ask")
        self._done = state_server.script(self._client, "budget_done")

    def ask(self, limit: Limit, unit: str, keys: int) -> float:
        """Take what a unit needs. 0: it may begin; else seconds to wait before asking again.

        Raises:
            StateUnavailable: The state server does not answer.
        """
        if limit.rate is None and limit.concurrency is None:
            return 0.0
        burst = max(1.0, (limit.rate or 0) * BURST_S, keys)
        args = (limit.rate or 0, burst, limit.concurrency or 0, keys, unit, self._longest_ms)
        return int(self._asked(self._ask, limit, args)) / 1000

    def done(self, limit: Limit, unit: str, *, asked: int, loaded: int, failed: int, seconds: float) -> float:
        """Tell how a unit went. Returns seconds to rest: what has no rate is slowed down by pauses.

        Raises:
            StateUnavailable: The state server does not answer; the unit counts as under way for a while.
        """
        called = loaded + failed
        per_key_us = round(seconds * 1e6 / called) if called else 0
        factor = float(self._asked(self._done, limit, (unit, asked - called, called, failed, per_key_us)))
        return 0.0 if limit.rate is not None else seconds * (1 / factor - 1)

    def _asked(self, script: Any, limit: Limit, args: tuple[Any, ...]) -> Any:
        names = keys.budget(self._namespace, limit.owner), keys.under_way(self._namespace, limit.owner)
        return patiently(lambda: script(keys=names, args=args), self._patience)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()
