"""The connections of one process, or of one event loop, to the primary that Sentinels name: a transport for it.

When they name another one there is another transport, and the connections of the old one are closed, those in use as
soon as what they are used for has ended. What may be done when is in `sentinels`; here it is performed in
threads (`SentinelTransport`, for `engine`) and in tasks (`AioSentinelTransport`, for `aio`).
"""

import asyncio
import threading
from typing import TypeVar

from stoker.cache.aio_transport import AioTransport
from stoker.cache.clock import clock
from stoker.cache.errors import CacheUnavailable
from stoker.cache.options import CacheConfig
from stoker.cache.sentinel_url import Address
from stoker.cache.sentinels import Sentinels, Sight
from stoker.cache.transport import Transport
from stoker.cache.wire import Exchange, Operation

T = TypeVar("T")


class SentinelTransport:
    """The connections of one process to a primary. Threads may share it."""

    def __init__(self, config: CacheConfig) -> None:
        self._config = config
        self.forked()

    def forked(self) -> None:
        """Begin without connections and threads, which are the parent's."""
        self._sentinels = Sentinels(self._config)
        self._sight = Sight()
        self._used: tuple[Address, Transport] | None = None
        self._changing = threading.Lock()
        self._looking: threading.Thread | None = None

    def run(self, operation: Operation[T]) -> T:
        """Drive an operation of the protocol to its end; raises as `Transport.run`."""
        transport = self._primary()
        try:
            return transport.run(operation)
        except CacheUnavailable:
            self._sight.hurry()
            raise

    def in_passing(self, key: bytes, commands: Exchange, seconds: float) -> None:
        """As `Transport.in_passing`."""
        if self._used is not None:
            self._used[1].in_passing(key, commands, seconds)

    def _primary(self) -> Transport:
        sight, now = self._sight, clock()
        if now > sight.late_at:
            sight.look(self._sentinels)
        elif now > sight.due_at:
            self._look_beside()
        used = self._used
        if used is None or used[0] != sight.address:
            used = self._use(sight)
        return used[1]

    def _use(self, sight: Sight) -> tuple[Address, Transport]:
        with self._changing:
            address, old = sight.address, self._used
            if old is None or old[0] != address:
                self._used = (
                    None if address is None else (address, Transport(self._sentinels.config_of(address)))
                )
                if old is not None:
                    old[1].close()
            if self._used is None:
                raise sight.refusal
            return self._used

    def _look_beside(self) -> None:
        with self._changing:
            if self._looking is None or not self._looking.is_alive():
                self._looking = threading.Thread(
                    target=self._sight.look, args=(self._sentinels,), name="stoker-sentinels", daemon=True
                )
                self._looking.start()

    def close(self) -> None:
        """Close the idle connections. The transport stays usable."""
        with self._changing:
            looking, used = self._looking, self._used
        if looking is not None:
            looking.join(self._config.connect_timeout + self._config.timeout)
        if used is not None:
            used[1].close()
        self._sentinels.close()


class AioSentinelTransport:
    """The connections of one event loop to a primary. Its tasks share it."""

    def __init__(self, config: CacheConfig) -> None:
        self._config = config
        self._used: tuple[Address, AioTransport] | None = None
        self._left: set[asyncio.Task[None]] = set()
        self._begin()

    def _begin(self) -> None:
        self._sentinels = Sentinels(self._config)
        self._sight = Sight()
        self._looking: asyncio.Task[None] | None = None

    def forked(self) -> None:
        """As `AioTransport.forked`."""
        self._begin()
        if self._used is not None:
            self._used[1].forked()

    async def run(self, operation: Operation[T]) -> T:
        """Drive an operation to its end; raises as `AioTransport.run`."""
        transport = await self._primary()
        try:
            return await transport.run(operation)
        except CacheUnavailable:
            self._sight.hurry()
            raise

    async def _primary(self) -> AioTransport:
        sight, now = self._sight, clock()
        if now > sight.due_at:
            looking = self._look_beside()
            if now > sight.late_at:
                await asyncio.shield(looking)
        used = self._used
        if used is None or used[0] != sight.address:
            used = self._use(sight)
        return used[1]

    def _use(self, sight: Sight) -> tuple[Address, AioTransport]:
        address, old = sight.address, self._used
        self._used = None if address is None else (address, AioTransport(self._sentinels.config_of(address)))
        if old is not None:
            leaving = asyncio.create_task(old[1].close(), name="stoker-leave")
            self._left.add(leaving)
            leaving.add_done_callback(self._left.discard)
        if self._used is None:
            raise sight.refusal
        return self._used

    def _look_beside(self) -> "asyncio.Task[None]":
        if self._looking is None or self._looking.done():
            looking = asyncio.to_thread(self._sight.look, self._sentinels)
            self._looking = asyncio.create_task(looking, name="stoker-sentinels")
        return self._looking

    async def close(self) -> None:
        """Close the connections; if any are in use, once what uses them has ended."""
        if self._looking is not None:
            await asyncio.wait((self._looking,))
        if self._left:
            await asyncio.wait(self._left)
        if self._used is not None:
            await self._used[1].close()
        self._sentinels.close()
