"""Who the primary is, as its Sentinels have it: asking them, and what a process may conclude. Blocks; no transport.

For a while after a fail-over two servers may call themselves primary: the old one, which was cut off or is not told
before ten seconds are over, and the new one. An invalidation that the new one has acknowledged must not be unknown to
anybody who reads from the old one. So there is a bound to either side (`Sight`): nobody begins anything at a primary
that no Sentinel has named for `LATE_S`, and nobody uses one that the Sentinel who names it has named for less than
`SETTLED_S`. The difference is what Sentinels may lag behind each other, which is a message between them.

Where no Sentinel answers, processes go on with the primary they have.
"""

import logging
import threading
from dataclasses import replace
from typing import Any, NamedTuple

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from stoker.cache import sentinel_url
from stoker.cache.clock import clock
from stoker.cache.errors import CacheUnavailable, ConfigError
from stoker.cache.options import CacheConfig, masked_url
from stoker.cache.sentinel_url import Address

log = logging.getLogger(__name__)
EVERY_S = 0.3
"""Between two questions, while the cache is used."""
LATE_S = 0.5
"""After which callers wait for the answer."""
SETTLED_S = 1.2
"""For which a Sentinel must have named a primary before it is used."""
HURRIED_S = 0.1
"""Between two questions while the server gives no answer."""
_ASK_WITHIN_S = 0.5
_PATIENCE_S = 5.0
"""For which callers do not wait for Sentinels that did not answer last time."""
_LAGGING = " but such as have missed a fail-over"
_SPARED_S = 5.0
"""For which a Sentinel that did not answer is asked after the others."""


class Found(NamedTuple):
    """What a Sentinel says of the primary.

    `epoch` counts the fail-overs that it knows of; `age_s` are the seconds for which it has named this one.
    """

    address: Address
    epoch: int
    age_s: float
    down: bool


class Sentinels:
    """The Sentinels of one URL. Threads may share them.

    Raises:
        ConfigError: The URL cannot be used.
    """

    def __init__(self, config: CacheConfig) -> None:
        self._config = config
        self._masked = masked_url(config.redis_url or "")
        self.url = sentinel_url.parse(config.redis_url or "")
        self._clients: dict[Address, Any] = {}
        self._spared_until = dict.fromkeys(self.url.sentinels, 0.0)
        self._turn = 0
        try:
            for address in self.url.sentinels:
                self._clients[address] = redis.Redis.from_url(
                    self.url.sentinel(address),
                    decode_responses=True,
                    socket_connect_timeout=min(config.connect_timeout, _ASK_WITHIN_S),
                    socket_timeout=min(config.timeout, _ASK_WITHIN_S),
                    retry=Retry(NoBackoff(), 0),
                )
        except (ValueError, RedisError) as error:
            raise ConfigError("redis_url", self._masked, str(error)) from error

    def ask(self, known: int) -> Found:
        """Ask them in turn, until one answers that knows of as many fail-overs as we do.

        If all know of fewer, they have begun anew. As long as one is silent it may be the one that knows.

        Raises:
            CacheUnavailable: None has answered so, or none that did knows the name.
        """
        best: Found | None = None
        failures: dict[str, list[str]] = {}
        for address in self._in_turn():
            try:
                found = _found(self._clients[address].sentinel_master(self.url.name))
            except (RedisError, OSError) as error:
                self._spared_until[address] = clock() + _SPARED_S
                failures.setdefault(self._why(error), []).append(str(address))
                continue
            self._spared_until[address] = 0.0
            if best is None or found.epoch > best.epoch:
                best = found
            if found.epoch >= known:
                break
        if best is None or (best.epoch < known and failures):
            told = "; ".join(f"{', '.join(who)}: {why}" for why, who in failures.items())
            raise CacheUnavailable(
                "redis", f"no Sentinel names the primary{_LAGGING if best else ''}: {told}"
            )
        return best

    def _in_turn(self) -> list[Address]:
        """Another one first each time, so that one that is cut off from the others is not all that we hear."""
        self._turn += 1
        at, now = self._turn % len(self.url.sentinels), clock()
        turned = (*self.url.sentinels[at:], *self.url.sentinels[:at])
        return sorted(turned, key=lambda address: self._spared_until[address] > now)

    def _why(self, error: Exception) -> str:
        if isinstance(error, ResponseError) and "No such master" in str(error):
            return f"it monitors no primary called {self.url.name!r}"
        return f"{type(error).__name__}: {str(error) or 'no answer in time'}"

    def config_of(self, address: Address) -> CacheConfig:
        """The settings, for a server of the group."""
        return replace(self._config, redis_url=self.url.server(address))

    def close(self) -> None:
        """Close the connections; the next question opens new ones."""
        for client in self._clients.values():
            client.close()


def _found(state: Any) -> Found:
    return Found(
        Address(state["ip"], int(state["port"])),
        int(state["config-epoch"]),
        int(state["role-reported-time"]) / 1000,
        bool(state["is_sdown"] or state["is_odown"]),
    )


class Sight:
    """What a process knows of the primary, and when it has to ask again. Times are those of `clock`.

    Attributes:
        address: The server to use; None: there is none.
        refusal: Why there is none.
        due_at: When to ask again, beside the callers.
        late_at: When nothing may begin before somebody has asked.
    """

    def __init__(self) -> None:
        self.address: Address | None = None
        self.refusal = CacheUnavailable("redis", "the Sentinels were not asked yet")
        self.due_at = self.late_at = 0.0
        self._epoch = 0
        self._asked_at = 0.0
        self._heard = True
        self._asking = threading.Lock()

    def look(self, sentinels: Sentinels) -> None:
        """Ask, and take in what they say. Who comes while another asks waits for the same answer."""
        with self._asking:
            now = clock()
            if now < self.due_at:
                return
            try:
                self.take(sentinels.ask(self._epoch), now)
            except CacheUnavailable as error:
                self.take_nothing(error, clock())

    def take(self, found: Found, asked_at: float) -> None:
        """Take in an answer to what was asked at that time."""
        if not self._heard:
            log.warning("a Sentinel answers again")
        self._heard, self._epoch, self._asked_at = True, found.epoch, asked_at
        self.due_at, self.late_at = asked_at + EVERY_S, asked_at + LATE_S
        if found.address == self.address:
            return
        left = SETTLED_S - found.age_s
        if found.down:
            self._refuse(f"{found.address} is down, as its Sentinels have it")
        elif left > 0:
            self._refuse(f"{found.address} has become the primary; it is used {left:.1f} s from now")
            self.due_at = min(self.due_at, asked_at + left)
        else:
            log.info("the primary is %s", found.address)
            self.address = found.address

    def _refuse(self, why: str) -> None:
        self.address, self.refusal = None, CacheUnavailable("redis", why)

    def take_nothing(self, error: CacheUnavailable, now: float) -> None:
        """No Sentinel has answered: the primary, if there is one, is used as before."""
        if self._heard:
            log.warning("%s; going on with %s", error.reason, self.address or "none")
        self._heard, self.refusal = False, error
        self.due_at, self.late_at = now + EVERY_S, now + _PATIENCE_S

    def hurry(self) -> None:
        """The server gave no answer: there may be another one soon."""
        if self._heard:
            self.due_at = min(self.due_at, self._asked_at + HURRIED_S)


class Following:
    """The primary as one thread follows it, which asks by itself."""

    def __init__(self, config: CacheConfig) -> None:
        self._sentinels = Sentinels(config)
        self._sight = Sight()

    def config(self) -> CacheConfig:
        """The settings, for the present primary.

        Raises:
            redis.ConnectionError: There is none.
        """
        if clock() > self._sight.due_at:
            self._sight.look(self._sentinels)
        if self._sight.address is None:
            raise redis.ConnectionError(self._sight.refusal.reason)
        return self._sentinels.config_of(self._sight.address)

    def check(self, config: CacheConfig) -> None:
        """Raise redis.ConnectionError if these settings are not for the present primary."""
        if self.config().redis_url != config.redis_url:
            raise redis.ConnectionError("another server is the primary")

    def close(self) -> None:
        """Close the connections to the Sentinels."""
        self._sentinels.close()
