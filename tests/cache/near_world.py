"""Processes that keep copies of what is on a cluster, while its slots are handed over, interleaved command by command.

Streams, operations, routing and hand-overs are the real ones. What a channel would move is moved here, in the order of
the seed: it stalls, breaks, and is connected again. A node tells its channels what was changed there; of what goes away
with a slot it tells them if the history says so, since nothing rests on that.
"""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import hiredis
import pytest
from redis.crc import key_slot

from stoker.cache import CacheConfig, CacheError, near, near_stream
from stoker.cache.backends.cluster import ClusterBackend
from stoker.cache.cluster import Router
from stoker.cache.cluster_map import slot_of
from stoker.cache.copies import ABSENT
from stoker.cache.near import Near
from stoker.cache.near_stream import Stream
from stoker.cache.protocol import Shard
from stoker.cache.wire import Call
from tests.cache.cluster_world import Stale
from tests.cache.hand_over_nodes import KEYS, TICK_S, Steps, address
from tests.cache.hand_over_world import HandOverWorld, in_this_world

BOUND = 25
"""Ticks for which a copy may lag."""
CUT = object()
"""What comes last over a connection."""


class Channel:
    """A connection of one process to one node, or none for a while."""

    def __init__(self, world: "NearWorld", number: int, stream: Stream) -> None:
        self._world = world
        self._number = number
        self._stream = stream
        self._server: bytes | None = None
        self._stalled_until = self._beat_at = 0
        self._reads: set[bytes] = set()
        self._asked: deque[list[bytes]] = deque()
        self._told: deque[Any] = deque()

    def tell(self, names: set[bytes]) -> None:
        """What was read over this connection has changed."""
        alive = self._server == self._world.nodes[self._number].server
        if alive and (gone := names & self._reads):
            self._reads -= gone
            self._told.append(hiredis.PushNotification([b"invalidate", sorted(gone)]))

    def go_on(self) -> None:
        """Something gets a little further, or nothing does."""
        chance, world = self._world.chance, self._world
        if world.ticks < self._stalled_until:
            return
        if chance.random() < 0.01:
            self._stalled_until = world.ticks + chance.choice([BOUND // 2, BOUND, 4 * BOUND, 20 * BOUND])
            return
        if self._server is None:
            if self._stream.needed and chance.random() < 0.3:
                self._server = world.nodes[self._number].server
                self._stream.opened(self._server)
            return
        if self._server != world.nodes[self._number].server or chance.random() < 0.002:
            self._asked.clear()
            self._told.append(CUT)
        for _ in range(3):
            chance.choice([self._say, self._be_answered, self._hear])()

    def _say(self) -> None:
        reader, stream = hiredis.Reader(), self._stream
        if not stream.beating and self._world.ticks > self._beat_at and not stream.rest():
            reader.feed(stream.beat())
            self._beat_at = self._world.ticks + BOUND // 3
        reader.feed(stream.questions())
        while (command := reader.gets()) is not False:
            self._asked.append(command)

    def _be_answered(self) -> None:
        if self._asked:
            self._told.append(self._answer(self._asked.popleft()))

    def _answer(self, command: list[bytes]) -> Any:
        if command[0] not in (b"GET", b"MGET"):
            return [b"master"] if command[0] == b"ROLE" else {b"flags": [b"on"]}
        slot, world = key_slot(command[-1]), self._world
        if slot not in world.nodes[self._number].slots:
            return hiredis.ReplyError(f"MOVED {slot} {address(world.owners[slot])}")
        self._reads.update(command[1:])
        values = [world.clients[self._number].get(name) for name in command[1:]]
        return values if command[0] == b"MGET" else values[0]

    def _hear(self) -> None:
        if not self._told:
            return
        message = self._told.popleft()
        if message is not CUT:
            self._stream.heard(message)
            return
        self._server = None
        self._asked.clear()
        self._told.clear()
        self._reads = set()
        self._stream.lost()


class NearWorld(HandOverWorld):
    """One history: `play` it. A copy that lags by more than the bound raises, as a stale read does."""

    def __init__(self, url: str, namespace: str, seed: int) -> None:
        super().__init__(url, namespace, seed)
        self.channels: dict[int, list[Channel]] = {}
        self.history: dict[str, list[tuple[int, int]]] = {key: [] for key in KEYS}
        self.served = 0
        self._tells = self.chance.choice([0.0, 0.5, 1.0])

    def config(self) -> CacheConfig:
        bound_s = BOUND * TICK_S
        where: dict[str, Any] = {"backend": "redis", "redis_url": "redis://nowhere", "cluster": True}
        return CacheConfig(**where, namespace=self.namespace, near_bound=bound_s)

    def makers(self) -> list[Callable[[], Steps]]:
        return [partial(self.keeper, 0), partial(self.keeper, 1), self.client]

    def keeper(self, which: int) -> Steps:
        """Reads, loads and invalidates for ever, and keeps copies."""
        backend, router = self._backend(near_size=10), Router()
        copies = backend.near
        assert copies is not None
        streams = {
            address(number): copies.new_stream(partial(self._is_at, router, address(number)))
            for number in range(3)
        }
        copies.stream_of = lambda shard: (
            None if router.layout is None else streams.get(router.layout.node_of(slot_of(shard)) or "")
        )
        self.channels[which] = [
            Channel(self, number, stream) for number, stream in enumerate(streams.values())
        ]
        return self._keep(backend, router, copies)

    def _is_at(self, router: Router, node: str, shard: Shard) -> bool:
        return router.layout is not None and router.layout.node_of(slot_of(shard)) == node

    def _keep(self, backend: ClusterBackend, router: Router, copies: Near) -> Steps:
        """Asks nodes only for what it has no copy of, or seldom: so it may hear of nothing but over its channels."""
        while True:
            if self.chance.random() < 0.01:
                router.layout = self.layout()
            key = self.chance.choice(KEYS)
            if not self.served_of(copies, key) or self.chance.random() < 0.02:
                with suppress(CacheError):
                    change = self.chance.random() < 0.05
                    yield from (self.invalidate if change else self.read)(backend, router, key)
            yield

    def served_of(self, copies: Near, key: str) -> bool:
        """Whether there is a copy to be served, which must not be older than the bound allows."""
        value = copies.get(key, None, None)
        if value is ABSENT:
            return False
        self.served += 1
        by = self.ticks - BOUND
        oldest = max((version for tick, version in self.history[key] if tick <= by), default=0)
        if value < oldest:
            raise Stale(
                f"{key}: a copy had version {value} more than the bound after {oldest} was acknowledged"
            )
        return True

    def invalidate(self, backend: ClusterBackend, router: Router, key: str) -> Steps:
        version = self.truth[key] + 1
        yield from super().invalidate(backend, router, key)
        self.history[key].append((self.ticks, version))
        if backend.near is not None:  # its own changes a process sees at once
            value = backend.near.get(key, None, None)
            if value is not ABSENT and value < version:
                raise Stale(
                    f"{key}: a copy had version {value} after this process had changed it to {version}"
                )

    def go_on(self) -> None:
        super().go_on()
        for channels in self.channels.values():
            for channel in channels:
                channel.go_on()

    # -- what nodes tell ---------------------------------------------------------------------------------------------

    def _answer(self, number: int, batch: Any) -> list[Any]:
        names = {_bytes(name) for command in batch for name in _changed_by(command)}
        before = {name: self.clients[number].dump(name) for name in names}
        replies = super()._answer(number, batch)
        self._tell(number, {name for name in names if self.clients[number].dump(name) != before[name]})
        return replies

    def _put(self, number: int, slot: int, values: dict[bytes, Any]) -> None:
        if self.chance.random() < self._tells:
            self._tell(number, {name for name in self._keys(number) if key_slot(name) == slot})
        super()._put(number, slot, values)

    def delete(self, node: int, name: bytes) -> None:
        super().delete(node, name)
        self._tell(node, {name})

    def _tell(self, number: int, names: set[bytes]) -> None:
        for channels in self.channels.values():
            channels[number].tell(names)


def _changed_by(command: Any) -> tuple[Any, ...]:
    if isinstance(command, Call):
        return command.keys
    return tuple(command[1:]) if command[0] == "UNLINK" else command[1:2] if command[0] == "SET" else ()


def _bytes(name: Any) -> bytes:
    return name if isinstance(name, bytes) else str(name).encode()


def in_near_world(monkeypatch: pytest.MonkeyPatch, world: NearWorld) -> None:
    in_this_world(monkeypatch, world)
    for module in (near, near_stream):
        monkeypatch.setattr(module, "clock", world.monotonic)
