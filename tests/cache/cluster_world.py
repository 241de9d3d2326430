"""Processes of two placements and three nodes, interleaved command by command, with what may happen to a cluster.

The nodes are played by one real server: each shard's keys, and the map, count as on a node of their own, which has the
name of a server process. A fail-over gives it another name, and the keys of its node may go back to what they were some
time ago. Scripts, operations and routing are the real ones; the order is that of the history's seed.
"""

from collections.abc import Callable, Generator
from contextlib import suppress
from random import Random
from typing import Any

import redis
from redis.crc import key_slot

from stoker.cache import CacheConfig, CacheError, cluster_map
from stoker.cache.backends import Write
from stoker.cache.backends.cluster import ClusterBackend
from stoker.cache.bans import Kind, Rule
from stoker.cache.cluster import Look, Round, Router
from stoker.cache.errors import CacheUnavailable
from stoker.cache.keys import ShardKeys
from stoker.cache.parts import Layout
from stoker.cache.protocol import Lease
from stoker.cache.shards import Agreement, Placement
from stoker.cache.stats import Counters
from stoker.cache.transport import Connection, Transport
from stoker.cache.wire import Answer, Operation

NODES = 3
SHARDS = 7, 5
"""Of the two placements."""
KEYS = [f"k{n}" for n in range(2)]
Steps = Generator[None, None, Any]


class Stale(AssertionError):
    """A value was served that an acknowledged invalidation had killed before the read began."""


class World:
    """One history: `play` it. `stale` reads raise."""

    def __init__(self, url: str, namespace: str, seed: int) -> None:
        self.chance = Random(seed)
        self.namespace = namespace
        self.client = redis.Redis.from_url(url)
        self._transport = Transport(CacheConfig(backend="redis", redis_url=url))
        self.connection: Connection = self._transport._checkout(self._transport._pool)
        self.servers = [self._new_name() for _ in range(NODES)]
        self.truth = dict.fromkeys(KEYS, 1)
        self.acked = dict.fromkeys(KEYS, 0)
        self.hits = self.acks = self.refused = 0
        keys = [ShardKeys(namespace, n) for n in range(max(SHARDS))]
        self.node_of_key = {key.ctl: n % NODES for n, key in enumerate(keys)} | {keys[0].map: NODES - 1}
        owners: list[str | None] = ["0"] * 16384
        for key, node in self.node_of_key.items():
            owners[key_slot(key)] = str(node)
        self.layout = Layout(owners)
        self._map_slot = key_slot(keys[0].map)
        self.past: list[dict[bytes, Any]] = [{} for _ in range(NODES)]

    def _new_name(self) -> bytes:
        return f"{self.chance.getrandbits(64):016x}".encode()

    # -- what processes do --------------------------------------------------------------------------------------

    def drive(self, operation: Operation[Any]) -> Steps:
        """As a transport does, giving way to others before each command."""
        steps = Router().run(operation)
        try:
            effect = next(steps)
            while True:
                if isinstance(effect, Look):
                    effect = steps.send(self.layout)
                    continue
                assert isinstance(effect, Round)
                answers = {}
                nodes = list(effect.operations)
                self.chance.shuffle(nodes)
                for node in nodes:
                    answers[node] = yield from self._on(int(node), effect.operations[node])
                effect = steps.send(answers)
        except StopIteration as stop:
            return stop.value

    def _on(self, node: int, operation: Operation[Any]) -> Steps:
        """On one connection, which does not outlive the server process."""
        server = self.servers[node]
        try:
            commands = next(operation)
            while True:
                replies: list[Any] = []
                batches = [commands] if commands[0] == ("MULTI",) else [(one,) for one in commands]
                for batch in batches:
                    yield
                    if self.servers[node] != server:
                        operation.close()
                        return CacheUnavailable("redis", "the server is gone")
                    self.connection.line.server = server
                    replies += self.connection.ask(batch).replies
                commands = operation.send(Answer(replies, server, server))
        except StopIteration as stop:
            return stop.value

    def process(self, shards: int) -> Steps:
        """Reads, loads and invalidates for ever."""
        config = CacheConfig(
            backend="redis", redis_url="redis://nowhere", cluster=True, namespace=self.namespace
        )
        backend = ClusterBackend(config, Counters(), lambda *_: None, lambda _: False, lambda *_: False)
        backend.place(Placement(shards))
        while True:
            key = self.chance.choice(KEYS)
            what = self.read if self.chance.random() < 0.7 else self.invalidate
            try:
                yield from what(backend, key)
            except CacheError:
                self.refused += 1
            yield

    def read(self, backend: ClusterBackend, key: str) -> Steps:
        """Read through: a miss is loaded under a lease, as `flight` does it."""
        dead = self.acked[key]
        hit = yield from self.drive(backend.read(None, key))
        if hit is not None:
            self.hits += 1
            if hit.value < dead:
                raise Stale(f"{key}: read version {hit.value} after version {dead} was acknowledged")
            return
        [(lease, _)] = yield from self.drive(backend.acquire([(None, key)]))
        if isinstance(lease, Lease):
            yield
            value = self.truth[key]
            yield
            write = Write(value, 60_000, 0, (), 0)
            yield from self.drive(backend.fill([(lease, write)]))

    def invalidate(self, backend: ClusterBackend, key: str) -> Steps:
        """Change the truth, then invalidate."""
        self.truth[key] += 1
        version = self.truth[key]
        if self.chance.random() < 0.5:
            yield from self.drive(backend.delete(None, key))
        else:
            yield from self.drive(backend.ban([Rule(Kind.PREFIX, "", key)]))
        self.acks += 1
        self.acked[key] = max(self.acked[key], version)

    # -- what happens to them -----------------------------------------------------------------------------------

    def keys_of(self, node: int) -> list[bytes]:
        """The keys that count as the node's."""
        found = self.client.scan_iter(f"{{{self.namespace}*", count=1000)
        return [key for key in found if self.layout.node_of(key_slot(key)) == str(node)]

    def remember(self) -> None:
        """A replica of some node is as far as its primary, and lags from now on."""
        node = self.chance.randrange(NODES)
        self.past[node] = {key: self.client.dump(key) for key in self.keys_of(node)}

    def fail_over(self) -> None:
        """A lagging replica is promoted."""
        node = self.chance.choice([NODES - 1, self.chance.randrange(NODES)])  # the map's more often
        for key in self.keys_of(node):
            self.client.delete(key)
        for key, value in self.past[node].items():
            if value is not None:
                self.client.restore(key, 60_000, value, replace=True)
        self.servers[node] = self._new_name()

    def lose(self) -> None:
        """Some control keys are lost."""
        keys = list(self.node_of_key)
        self.client.delete(*self.chance.sample(keys, self.chance.randint(1, len(keys))))

    def play(self, steps: int) -> None:
        """Let processes and faults take turns.

        Raises:
            Stale: Somebody was.
        """
        kinds = [SHARDS[0], SHARDS[0], SHARDS[1], SHARDS[1]]
        processes = [self.process(kind) for kind in kinds]
        faults: list[Callable[[], None]] = [self.remember, self.fail_over, self.lose]
        try:
            paused = stopped = 0
            for _ in range(steps):
                if self.chance.random() < 0.02:
                    self.chance.choice(faults)()
                if paused == 0 and self.chance.random() < 0.1:  # for longer than a map takes to begin
                    paused, stopped = 40, self.chance.randrange(len(processes))
                paused = max(0, paused - 1)
                slot = self.chance.randrange(len(processes))
                if paused and slot == stopped:
                    continue
                if self.chance.random() < 0.001:  # killed
                    processes[slot].close()
                    processes[slot] = self.process(kinds[slot])
                for _ in range(self.chance.choice([1, 2, 30])):
                    next(processes[slot])
        finally:
            for process in processes:
                process.close()

    def end(self) -> None:
        """Leave nothing behind."""
        with suppress(ValueError):
            for key in self.client.scan_iter(f"{{{self.namespace}*", count=1000):
                self.client.delete(key)
        self.client.close()
        self.connection.raw.disconnect()


def narrowed(monkeypatch: Any) -> None:
    """Few shards in all, so that histories are short; and nobody is refused for the map that was there before.

    That refusal spares a namespace a needless cold start; nothing may rest on it.
    """
    monkeypatch.setattr(cluster_map, "MOST_SHARDS", max(SHARDS))
    monkeypatch.setattr(Agreement, "check_standing", lambda *_: None)
