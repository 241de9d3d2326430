"""Processes that use a cluster, and one that hands its slots over, interleaved command by command.

Scripts, operations, routing and the hand-over are the real ones; order, clock and faults are those of the seed.
"""

from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import replace
from types import GeneratorType
from typing import Any

from stoker.cache import CacheConfig, CacheError, cluster, cluster_map, cold_move, hand_over
from stoker.cache.backends import Write
from stoker.cache.backends.cluster import ClusterBackend
from stoker.cache.bans import Control, Kind, Rule
from stoker.cache.cluster import Router
from stoker.cache.hand_over import Move
from stoker.cache.keys import ShardKeys
from stoker.cache.programs import Sleep
from stoker.cache.protocol import Lease
from stoker.cache.shards import Placement
from stoker.cache.stats import Counters
from stoker.cache.wire import Operation
from tests.cache.cluster_world import NODES, Stale
from tests.cache.hand_over_nodes import HEARD_WITHIN, KEYS, SHARDS, TICK_S, Nodes, Steps, address


class HandOverWorld(Nodes):
    """One history: `play` it. Stale reads raise."""

    def __init__(self, url: str, namespace: str, seed: int) -> None:
        super().__init__(url, namespace, seed)
        self.truth = dict.fromkeys(KEYS, 1)
        self.acked = dict.fromkeys(KEYS, 0)
        self.hits = self.acks = self.warm = self.cold = 0

    # -- what processes do -------------------------------------------------------------------------------------------

    def _backend(self, near_size: int = 0) -> ClusterBackend:
        config = replace(self.config(), near_size=near_size)
        backend = ClusterBackend(config, Counters(), lambda *_: None, lambda _: True, lambda *_: False)
        backend.place(Placement(SHARDS))
        return backend

    def config(self) -> CacheConfig:
        return CacheConfig(
            backend="redis", redis_url="redis://nowhere", cluster=True, namespace=self.namespace
        )

    def client(self) -> Steps:
        """Reads, loads and invalidates for ever."""
        backend, router = self._backend(), Router()
        while True:
            if self.chance.random() < 0.1:
                router.layout = self.layout()
            key = self.chance.choice(KEYS)
            what = self.read if self.chance.random() < 0.7 else self.invalidate
            with suppress(CacheError):
                yield from what(backend, router, key)
            yield

    def read(self, backend: ClusterBackend, router: Router, key: str) -> Steps:
        """Read through: a miss is loaded under a lease, as `flight` does it."""
        dead = self.acked[key]
        hit = yield from self.drive(router, backend.read(None, key))
        if hit is not None:
            self.hits += 1
            if hit.value < dead:
                raise Stale(f"{key}: read version {hit.value} after version {dead} was acknowledged")
            return
        [(lease, _)] = yield from self.drive(router, backend.acquire([(None, key)]))
        if isinstance(lease, Lease):
            yield
            value = self.truth[key]
            yield
            yield from self.drive(router, backend.fill([(lease, Write(value, 60_000, 0, (), 0))]))

    def invalidate(self, backend: ClusterBackend, router: Router, key: str) -> Steps:
        """Change the truth, then invalidate."""
        self.truth[key] += 1
        version = self.truth[key]
        if self.chance.random() < 0.5:
            yield from self.drive(router, backend.delete(None, key))
        else:
            yield from self.drive(router, backend.ban([Rule(Kind.PREFIX, "", key)]))
        self.acks += 1
        self.acked[key] = max(self.acked[key], version)

    def mover(self) -> Steps:
        """Hands slots over for ever; begins by settling what another has left."""
        backend, router = self._backend(), Router()
        while True:
            with suppress(CacheError):
                yield from self.drive(router, self.settle(backend))
                yield from self.hand_over(backend, router)
            yield

    def settle(self, backend: ClusterBackend) -> Operation[int]:
        return hand_over.settle(backend.space, range(SHARDS))

    def hand_over(self, backend: ClusterBackend, router: Router) -> Steps:
        number = self.chance.randrange(SHARDS)
        source = self.owners[self.slots[number]]
        target = self.chance.choice([n for n in range(NODES) if n != source])
        move = Move(self.slots[number], (number,), address(source), address(target), str(target))
        how = self.chance.choice([hand_over.hand_over, hand_over.hand_over, cold_move.cold_move])
        program = how(backend.space, move)
        try:
            effect = next(program)
            while True:
                answer = None
                if isinstance(effect, Sleep):
                    yield from self.sleep(effect.seconds)
                elif isinstance(effect, GeneratorType):
                    try:
                        answer = yield from self.drive(router, effect)
                    except CacheError as error:
                        effect = program.throw(error)
                        continue
                elif self.chance.random() < 0.02:
                    yield from self.drive(router, hand_over.cancel(move))
                effect = program.send(answer)
        except StopIteration as stop:
            if stop.value.moved:
                self.warm += stop.value.warm
                self.cold += not stop.value.warm

    def lose(self) -> None:
        """A control record is lost."""
        number = self.chance.randrange(SHARDS)
        owner = self.owners[self.slots[number]]
        if not self.waits(owner):
            self.delete(owner, ShardKeys(self.namespace, number).ctl)

    def delete(self, node: int, name: bytes) -> None:
        self.clients[node].delete(name)

    def makers(self) -> list[Callable[[], Steps]]:
        """Of processes, but for the mover."""
        return [self.client] * 3

    def play(self, steps: int) -> None:
        """Let processes and faults take turns; at the end the records accept their owners and nobody else.

        Raises:
            Stale: Somebody was.
        """
        makers = [*self.makers(), self.mover]
        processes = [make() for make in makers]
        faults = [self.remember, self.fail_over, self.move_without_hand_over, self.lose]
        try:
            stopped, paused = 0, 0
            for _ in range(steps):
                if self.chance.random() < 0.01:
                    self.chance.choice(faults)()
                if paused == 0 and self.chance.random() < 0.05:  # the mover for longer than a source waits
                    paused, stopped = 60, self.chance.randrange(len(processes))
                paused = max(0, paused - 1)
                which = self.chance.randrange(len(processes))
                if paused and which == stopped:
                    continue
                if self.chance.random() < (0.02 if which == 3 else 0.001):  # killed
                    processes[which].close()
                    processes[which] = makers[which]()
                for _ in range(self.chance.choice([1, 2, 10])):
                    self.ticks += 1
                    self.go_on()
                    next(processes[which])
            self.ends_settled()
        finally:
            for process in processes:
                process.close()

    def ends_settled(self) -> None:
        """When nothing more happens, one more mover sees to it that records and owners agree."""
        while any(not one.over or (one.copy is not None and one.taken_at is None) for one in self.migrations):
            self.ticks += 1
            self.go_on()
        for _ in range(HEARD_WITHIN):
            self.ticks += 1
            self.go_on()
        steps: Generator[None, None, Any] = self.drive(Router(), self.settle(self._backend()))
        with suppress(StopIteration):
            while True:
                self.ticks += 1
                next(steps)
        for number, slot in enumerate(self.slots):
            owner = self.owners[slot]
            control = Control.parse(self.clients[owner].get(ShardKeys(self.namespace, number).ctl))
            assert control is not None
            assert control.boots == {self.nodes[owner].server}, f"shard {number}: {control.raw!r}"


def in_this_world(monkeypatch: Any, world: HandOverWorld) -> None:
    """The clock is the world's; and who waits for a hand-over waits for longer than a source can be behind."""
    monkeypatch.setattr(cluster_map, "MOST_SHARDS", SHARDS)
    monkeypatch.setattr(hand_over, "clock", world.monotonic)
    monkeypatch.setattr(cluster, "REST_S", 4 * TICK_S)
    monkeypatch.setattr(cluster, "LONGEST_REST_S", 8 * TICK_S)
    monkeypatch.setattr(cluster, "PATIENCE_S", 4 * TICK_S * HEARD_WITHIN / 3)
