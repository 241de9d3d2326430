"""The connections of one process, or of one event loop, to all nodes of a cluster: a transport for each.

Performs what `cluster.Router` asks for, in threads (`ClusterTransport`, for `engine`) and in tasks
(`AioClusterTransport`, for `aio`). Each node has its own breaker: one that is down costs its shards only.
"""

import asyncio
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from redis.crc import key_slot

from stoker.cache import topology
from stoker.cache.aio_transport import AioTransport
from stoker.cache.cluster import Look, Rest, Round, Routed, Router
from stoker.cache.errors import CacheUnavailable
from stoker.cache.options import CacheConfig
from stoker.cache.parts import Layout, Node
from stoker.cache.topology import Topology
from stoker.cache.transport import Transport
from stoker.cache.wire import Exchange, Operation

T = TypeVar("T")
log = logging.getLogger(__name__)
_LOOK_EVERY_S = 0.1
"""Between two looks at the cluster's layout while something is wrong with it."""
_THREADS = 64
"""Nodes that are asked at the same time for all callers; each caller asks one in its own thread."""


class ClusterTransport:
    """The connections of one process to a cluster. Threads may share it."""

    def __init__(self, config: CacheConfig, router: Router) -> None:
        self._config = config
        self.router = router
        self.forked()

    def forked(self) -> None:
        """Begin without connections and threads, which are the parent's."""
        self._topology = Topology(self._config)
        self._transports: dict[Node, Transport] = {}
        self._begin()

    def _begin(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="stoker-node")
        self._changing = threading.Lock()
        self._looking: threading.Thread | None = None
        self._closed = threading.Event()

    def run(self, operation: Operation[T]) -> T:
        """Drive an operation on a cluster to its end; raises as `Transport.run`."""
        steps: Routed[T] = self.router.run(operation)
        try:
            effect = next(steps)
            while True:
                effect = steps.send(self._do(effect))
        except StopIteration as stop:
            result: T = stop.value
            return result

    def in_passing(self, key: bytes, commands: Exchange, seconds: float) -> None:
        """As `Transport.in_passing`, at the node that has the key as far as is known."""
        layout = self.router.layout
        node = None if layout is None else layout.node_of(key_slot(key))
        if node is not None and (transport := self._transports.get(node)) is not None:
            transport.in_passing(key, commands, seconds)

    def _do(self, effect: Round | Look | Rest) -> Any:
        match effect:
            case Round(operations):
                return self._round(operations)
            case Rest(seconds):
                return time.sleep(seconds)
            case Look(beside=True):
                return self._look_beside()
        return self.router.layout or self._learn()

    def _round(self, operations: dict[Node, Operation[Any]]) -> dict[Node, Any]:
        (node, operation), *others = operations.items()
        futures = {other: self._threads.submit(self._attempt, other, its) for other, its in others}
        answers = {node: self._attempt(node, operation)}
        return answers | {other: future.result() for other, future in futures.items()}

    def _attempt(self, node: Node, operation: Operation[Any]) -> Any:
        try:
            return self._transport(node).run(operation)
        except CacheUnavailable as error:
            return error

    def _transport(self, node: Node) -> Transport:
        transport = self._transports.get(node)
        if transport is None:
            with self._changing:
                transport = self._transports.setdefault(
                    node, Transport(topology.config_of(self._config, node))
                )
        return transport

    def _learn(self) -> Layout:
        layout = self._topology.learn()
        self.router.layout = layout
        with self._changing:
            gone = [self._transports.pop(node) for node in self._transports.keys() - set(layout.nodes)]
        for transport in gone:
            transport.close()
        return layout

    def _look_beside(self) -> None:
        with self._changing:
            if self._looking is None or not self._looking.is_alive():
                self._looking = threading.Thread(
                    target=self._look, args=(self._closed,), name="stoker-layout", daemon=True
                )
                self._looking.start()

    def _look(self, closed: threading.Event) -> None:
        try:
            self._learn()
        except CacheUnavailable as error:
            log.debug("the cluster's layout is not known: %s", error)
        closed.wait(_LOOK_EVERY_S)

    def close(self) -> None:
        """Close the idle connections. The transport stays usable."""
        self._closed.set()
        self._threads.shutdown(wait=True)
        with self._changing:
            transports, looking = list(self._transports.values()), self._looking
        if looking is not None:
            looking.join(self._config.connect_timeout + self._config.timeout)
        self._begin()
        for transport in transports:
            transport.close()
        self._topology.close()


class AioClusterTransport:
    """The connections of one event loop to a cluster. Its tasks share it."""

    def __init__(self, config: CacheConfig, router: Router) -> None:
        self._config = config
        self.router = router
        self._topology = Topology(config)
        self._transports: dict[Node, AioTransport] = {}
        self._looking: asyncio.Task[Layout | CacheUnavailable] | None = None
        self._looked_at = 0.0

    def forked(self) -> None:
        """As `AioTransport.forked`."""
        self._topology = Topology(self._config)
        self._looking = None
        for transport in self._transports.values():
            transport.forked()

    async def run(self, operation: Operation[T]) -> T:
        """Drive an operation on a cluster to its end; raises as `AioTransport.run`."""
        steps: Routed[T] = self.router.run(operation)
        try:
            effect = next(steps)
            while True:
                effect = steps.send(await self._do(effect))
        except StopIteration as stop:
            result: T = stop.value
            return result

    async def _do(self, effect: Round | Look | Rest) -> Any:
        if isinstance(effect, Round):
            return await self._round(effect.operations)
        if isinstance(effect, Rest):
            return await asyncio.sleep(effect.seconds)
        looking = self._look_beside()
        if effect.beside:
            return None
        if self.router.layout is not None:
            return self.router.layout
        found = await asyncio.shield(looking)
        if isinstance(found, CacheUnavailable):
            raise found
        return found

    async def _round(self, operations: dict[Node, Operation[Any]]) -> dict[Node, Any]:
        if len(operations) == 1:
            [(node, operation)] = operations.items()
            return {node: await self._attempt(node, operation)}
        answers = await asyncio.gather(*(self._attempt(*each) for each in operations.items()))
        return dict(zip(operations, answers, strict=True))

    async def _attempt(self, node: Node, operation: Operation[Any]) -> Any:
        transport = self._transports.get(node)
        if transport is None:
            transport = self._transports[node] = AioTransport(topology.config_of(self._config, node))
        try:
            return await transport.run(operation)
        except CacheUnavailable as error:
            return error

    def _look_beside(self) -> "asyncio.Task[Layout | CacheUnavailable]":
        loop = asyncio.get_running_loop()
        if self._looking is None or (self._looking.done() and loop.time() - self._looked_at > _LOOK_EVERY_S):
            self._looked_at = loop.time()
            self._looking = asyncio.create_task(self._learn(), name="stoker-layout")
        return self._looking

    async def _learn(self) -> Layout | CacheUnavailable:
        try:
            layout = await asyncio.to_thread(self._topology.learn)
        except CacheUnavailable as error:
            log.debug("the cluster's layout is not known: %s", error)
            return error
        self.router.layout = layout
        for node in self._transports.keys() - set(layout.nodes):
            await self._transports.pop(node).close()
        return layout

    async def close(self) -> None:
        """Close the connections; if any are in use, once what uses them has ended."""
        if self._looking is not None:
            await asyncio.wait((self._looking,))
        for transport in self._transports.values():
            await transport.close()
        self._topology.close()
