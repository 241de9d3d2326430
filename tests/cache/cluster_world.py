"""Processes of two placements and three nodes, interleaved command by command, with what may happen to a cluster.

The nodes are played by one real server: each shard's keys, and the map, count as on a node of their own, which has the
name of a server process. A fail-over gives it another name, and the keys of its node may go back to what they were some
time ago. Scripts, operations and routing are the real ones; the order is that of the history's seed.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from functools import partial
from random import Random
from typing import Any

import redis
from redis.crc import key_slot

from stoker.cache import CacheConfig, CacheError, cluster_map, control, reshard, scripts
from stoker.cache.backends import Write
from stoker.cache.backends.cluster import ClusterBackend
from stoker.cache.backends.redis import RedisBackend
from stoker.cache.bans import Kind, Rule
from stoker.cache.cluster import Look, Round, Router
from stoker.cache.errors import CacheUnavailable
from stoker.cache.keys import ShardKeys
from stoker.cache.parts import Layout
from stoker.cache.protocol import Lease, Name
from stoker.cache.shards import Agreement, Placement
from stoker.cache.stats import Counters
from stoker.cache.tenancy import tenant_field
from stoker.cache.transport import Connection, Transport
from stoker.cache.wire import Answer, Call, Exchange, Operation

NODES = 3
SHARDS = 7, 5
"""Of the two placements."""
Steps = Generator[Exchange | None, None, Any]
"""Of a process: what it is about to send, if that is known. Others take their turns before it is sent."""
DELICATE = scripts.FENCE, scripts.ADMIT
"""Before these a process is held up more often, and longer, than before others, while the map may be lost."""


class Stale(AssertionError):
    """A value was served that an acknowledged invalidation had killed before the read began."""


class World:
    """One history: `play` it. `stale` reads raise."""

    names: Sequence[Name] = ((None, "k0"), (None, "k1"))
    """That are read, loaded and invalidated."""
    nodes = NODES

    def __init__(self, url: str, namespace: str, seed: int) -> None:
        self.chance = Random(seed)
        self.namespace = namespace
        self.client = redis.Redis.from_url(url)
        self._transport = Transport(CacheConfig(backend="redis", redis_url=url))
        self.connection: Connection = self._transport._checkout(self._transport._pool)
        self.servers = [self._new_name() for _ in range(self.nodes)]
        self.truth = dict.fromkeys(self.names, 1)
        self.acked = dict.fromkeys(self.names, 0)
        self.hits = self.acks = self.refused = 0
        keys = [ShardKeys(namespace, n) for n in range(max(SHARDS))]
        self.node_of_key = {key.ctl: n % self.nodes for n, key in enumerate(keys)}
        self.node_of_key[keys[0].map] = self.nodes - 1
        owners: list[str | None] = ["0"] * 16384
        for key, node in self.node_of_key.items():
            owners[key_slot(key)] = str(node)
        self.layout = Layout(owners)
        self._map = keys[0].map
        self.past: list[dict[bytes, Any]] = [{} for _ in range(self.nodes)]

    def _new_name(self) -> bytes:
        return f"{self.chance.getrandbits(64):016x}".encode()

    # -- what processes do --------------------------------------------------------------------------------------

    def drive(self, operation: Operation[Any]) -> Steps:
        """As a transport does, giving way to others before each command."""
        if self.nodes == 1:
            found = yield from self._on(0, operation)
            if isinstance(found, CacheUnavailable):
                raise found
            return found
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
                for batch in _one_by_one(commands):
                    yield batch
                    if self.servers[node] != server:
                        operation.close()
                        return CacheUnavailable("redis", "the server is gone")
                    self.connection.line.server = server
                    replies += self.connection.ask(batch).replies
                commands = operation.send(Answer(replies, server, server))
        except StopIteration as stop:
            return stop.value

    def backend(self, placement: Placement) -> RedisBackend:
        """What a process has."""
        config = CacheConfig(
            backend="redis", redis_url="redis://nowhere", cluster=self.nodes > 1, namespace=self.namespace
        )
        make = ClusterBackend if self.nodes > 1 else RedisBackend
        backend = make(config, Counters(), lambda *_: None, lambda _: False, lambda *_: False)
        backend.place(placement)
        return backend

    def placements(self) -> list[Placement]:
        """How each process would have keys live."""
        return [Placement(SHARDS[n]) for n in (0, 0, 1, 1)]

    def process(self, placement: Placement) -> Steps:
        """Reads, loads and invalidates for ever."""
        backend = self.backend(placement)
        while True:
            name = self.chance.choice(self.names)
            what = self.read if self.chance.random() < 0.7 else self.invalidate
            try:
                yield from what(backend, name)
            except CacheError:
                self.refused += 1
            yield None

    def processes(self) -> list[Callable[[], Steps]]:
        """Who takes turns, each to be begun again when it was killed."""
        return [partial(self.process, placement) for placement in self.placements()]

    def read(self, backend: RedisBackend, name: Name) -> Steps:
        """Read through: a miss is loaded under a lease, as `flight` does it."""
        dead = self.acked[name]
        hit = yield from self.drive(backend.read(*name))
        if hit is not None:
            self.hits += 1
            if hit.value < dead:
                raise Stale(f"{name}: read version {hit.value} after version {dead} was acknowledged")
            return
        [(lease, _)] = yield from self.drive(backend.acquire([name]))
        if isinstance(lease, Lease):
            yield None
            value = self.truth[name]
            yield None
            write = Write(value, 60_000, 0, (), 0)
            yield from self.drive(backend.fill([(lease, write)]))

    def invalidate(self, backend: RedisBackend, name: Name) -> Steps:
        """Change the truth, then invalidate."""
        self.truth[name] += 1
        version = self.truth[name]
        if self.chance.random() < 0.5:
            yield from self.drive(backend.delete(*name))
        else:
            yield from self.drive(backend.ban([Rule(Kind.PREFIX, tenant_field(name[0]), name[1])]))
        self.acks += 1
        self.acked[name] = max(self.acked[name], version)

    # -- what happens to them -----------------------------------------------------------------------------------

    def keys_of(self, node: int) -> list[bytes]:
        """The keys that count as the node's."""
        found = self.client.scan_iter(f"{{{self.namespace}*", count=1000)
        return [key for key in found if self.layout.node_of(key_slot(key)) == str(node)]

    def remember(self) -> None:
        """A replica of some node is as far as its primary, and lags from now on."""
        node = self.chance.randrange(self.nodes)
        self.past[node] = {key: self.client.dump(key) for key in self.keys_of(node)}

    def fail_over(self) -> None:
        """A lagging replica is promoted."""
        node = self.chance.choice([self.nodes - 1, self.chance.randrange(self.nodes)])  # the map's more often
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
        kinds = self.processes()
        processes = [kind() for kind in kinds]
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
                    processes[slot] = kinds[slot]()
                for _ in range(self.chance.choice([1, 2, 30])):
                    if self._is_delicate(next(processes[slot])) and self.chance.random() < 0.2:
                        paused, stopped = self.chance.choice([20, 60]), slot
                        if self.chance.random() < 0.5:
                            self.client.delete(self._map)
                        break
        finally:
            for process in processes:
                process.close()

    def _is_delicate(self, about: Exchange | None) -> bool:
        return about is not None and any(isinstance(one, Call) and one.script in DELICATE for one in about)

    def end(self) -> None:
        """Leave nothing behind."""
        with suppress(ValueError):
            for key in self.client.scan_iter(f"{{{self.namespace}*", count=1000):
                self.client.delete(key)
        self.client.close()
        self.connection.raw.disconnect()


def _one_by_one(commands: Exchange) -> Iterator[Exchange]:
    """What is done at once: a command, or all of a transaction."""
    left = iter(commands)
    for command in left:
        batch = [command]
        while batch[0] == ("MULTI",) and batch[-1] != ("EXEC",):
            batch.append(next(left))
        yield tuple(batch)


def narrowed(monkeypatch: Any) -> None:
    """Few shards in all, so that histories are short; and nobody is refused for the map that was there before.

    That refusal spares a namespace a needless cold start; nothing may rest on it.
    """
    for module in (cluster_map, control, reshard):
        monkeypatch.setattr(module, "MOST_SHARDS", max(SHARDS))
    monkeypatch.setattr(Agreement, "check_standing", lambda *_: None)
