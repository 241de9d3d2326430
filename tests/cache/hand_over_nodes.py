"""Three nodes that give slots to each other, as Valkey 9 does it, and what may go wrong while they do.

Each node is a database of one real server, and has the name of a server process. A slot on its way: the source waits
with writes, a copy goes to the target, which takes over, and a while later the source hears of it. It waits for so long
only: then it goes on with writes, and loses them when the target takes over after all. The order is that of the seed.
"""

from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.crc import key_slot
from redis.exceptions import MovedError

from stoker.cache import CacheConfig, hand_over
from stoker.cache.bans import Control
from stoker.cache.cluster import Look, Rest, Round, Router
from stoker.cache.errors import CacheUnavailable
from stoker.cache.keys import ShardKeys
from stoker.cache.parts import Layout
from stoker.cache.transport import Connection, Transport
from stoker.cache.wire import Answer, Call, Operation
from tests.cache.cluster_world import NODES

KEYS: tuple[str, ...] = ("k0", "k1")
SHARDS = 2
TICK_S = 0.02
"""What one command takes, by the world's clock."""
PAUSE = round(hand_over.PAUSE_S / TICK_S)
"""Ticks for which a source waits with writes."""
Steps = Generator[None, None, Any]
"""Of a process: others take their turns before each command."""
HEARD_WITHIN = 60
"""Ticks after which a source has heard of a target that took over; longer than that it would be cut off."""


@dataclass(eq=False)
class Migration:
    """A slot on its way."""

    name: str
    slot: int
    source: int
    target: int
    state: str = "replicating"
    paused_until: int = 0
    copy: dict[bytes, Any] | None = None
    taken_at: int | None = None
    epoch: int = 0
    haste: float = 0.05  # of the target, a tick
    news: float = 0.05  # that others hear of it, a tick
    theirs: bool = False

    @property
    def over(self) -> bool:
        return self.state in ("success", "failed", "cancelled")


@dataclass
class Node:
    """What a node is, and which slots it takes for its own."""

    server: bytes
    slots: dict[int, int] = field(default_factory=dict)  # with the epoch in which it got them
    imports: set[int] = field(default_factory=set)
    past: dict[bytes, Any] = field(default_factory=dict)


class Nodes:
    """A cluster. Each tick of its clock is a command of somebody's."""

    def __init__(self, url: str, namespace: str, seed: int) -> None:
        self.chance = Random(seed)
        self.namespace = namespace
        self.ticks = self.epoch = 0
        where = urlsplit(url)  # its database would go before one that is asked for
        self.clients: list[Any] = [
            redis.Redis.from_url(where._replace(path=f"/{n + 1}").geturl()) for n in range(NODES)
        ]
        self._transport = Transport(CacheConfig(backend="redis", redis_url=url))
        self.connection: Connection = self._transport._checkout(self._transport._pool)
        self.nodes = [Node(self._new_name()) for _ in range(NODES)]
        keys = [ShardKeys(namespace, n) for n in range(SHARDS)]
        self.slots = [key_slot(one.ctl) for one in keys]
        self.map_slot = key_slot(keys[0].map)
        self.owners = {slot: n % NODES for n, slot in enumerate(self.slots)} | {self.map_slot: NODES - 1}
        for slot, node in self.owners.items():
            self.nodes[node].slots[slot] = 0
        self.migrations: list[Migration] = []

    def _new_name(self) -> bytes:
        return f"{self.chance.getrandbits(64):016x}".encode()

    def monotonic(self) -> float:
        """The world's clock."""
        return self.ticks * TICK_S

    def layout(self) -> Layout:
        """What some node says of where the slots are."""
        owners: list[str | None] = [address(0)] * 16384
        for slot, node in self.owners.items():
            owners[slot] = address(node)
        return Layout(owners)

    # -- what a server does ----------------------------------------------------------------------------------------

    def drive(self, router: Router, operation: Operation[Any]) -> Steps:
        """As a transport does, giving way to others before each command."""
        steps = router.run(operation)
        try:
            effect = next(steps)
            while True:
                match effect:
                    case Look():
                        if not effect.beside or self.chance.random() < 0.3:
                            router.layout = self.layout()
                        effect = steps.send(router.layout)
                    case Rest(seconds):
                        yield from self.sleep(seconds)
                        effect = steps.send(None)
                    case Round(operations):
                        answers = {}
                        for node in self.chance.sample(list(operations), len(operations)):
                            answers[node] = yield from self._on(int(node.partition(":")[0]), operations[node])
                        effect = steps.send(answers)
        except StopIteration as stop:
            return stop.value

    def sleep(self, seconds: float) -> Steps:
        until = self.monotonic() + seconds
        while self.monotonic() < until:
            yield

    def _on(self, number: int, operation: Operation[Any]) -> Steps:
        """On one connection, which does not outlive the server process."""
        node = self.nodes[number]
        server = node.server
        try:
            commands = next(operation)
            while True:
                replies: list[Any] = []
                for batch in _batches(commands):
                    yield
                    while node.server == server and self._waits(number, batch):
                        yield
                    if node.server != server:
                        operation.close()
                        return CacheUnavailable("redis", "the server is gone")
                    replies += self._answer(number, batch)
                commands = operation.send(Answer(replies, server, server))
        except StopIteration as stop:
            return stop.value

    def _waits(self, number: int, batch: Any) -> bool:
        slot = _slot(batch)
        return (
            slot in self.nodes[number].slots
            and (isinstance(batch[0], Call) or batch[0][0] == "SET")
            and any(
                one.slot == slot and one.source == number and self.ticks < one.paused_until
                for one in self.migrations
            )
        )

    def _answer(self, number: int, batch: Any) -> list[Any]:
        if not isinstance(batch[0], Call) and batch[0][0] == "CLUSTER":
            return [self._cluster(number, batch[0])]
        slot, node = _slot(batch), self.nodes[number]
        asking = batch[0] == ("ASKING",)
        if slot is not None and slot not in node.slots and not (asking and slot in node.imports):
            return [MovedError(f"{slot} {address(self.owners[slot])}")] * len(batch)
        self.connection.line.server = node.server
        return [b"OK"] * asking + self.connection.ask((("SELECT", number + 1), *batch[asking:])).replies[1:]

    def _cluster(self, number: int, command: Any) -> Any:
        match command[1]:
            case "GETSLOTMIGRATIONS":
                return [_told(one) for one in reversed(self.migrations) if one.source == number]
            case "CANCELSLOTMIGRATIONS":
                self.cancel(number)
                return b"OK"
            case "MYID":
                return str(number).encode()
            case "GETKEYSINSLOT":
                return [key for key in self._keys(number) if key_slot(key) == command[2]]
            case "COUNTKEYSINSLOT":
                return sum(key_slot(key) == command[2] for key in self._keys(number))
            case "SLOTS":
                owners = self.owners | dict.fromkeys(self.nodes[number].slots, number)
                return [[slot, slot, [b"", 0, str(owner).encode()]] for slot, owner in owners.items()]
            case "SETSLOT":
                return self.set_slot(number, command[2], command[3])
            case "MIGRATESLOTS":
                return self.migrate(command[3], number, int(command[6]))
        raise AssertionError(command)

    # -- what becomes of slots ---------------------------------------------------------------------------------------

    def migrate(self, slot: int, source: int, target: int) -> Any:
        if slot not in self.nodes[source].slots:
            return redis.ResponseError("Slots are not served by this node.")
        if any(one.slot == slot and not one.over for one in self.migrations):
            return redis.ResponseError("I am already migrating slot")
        haste, news = self.chance.choice([0.2, 0.02, 0.01]), self.chance.choice([0.2, 0.02])
        self.migrations.append(
            Migration(self._new_name().decode(), slot, source, target, haste=haste, news=news)
        )
        return b"OK"

    def set_slot(self, number: int, slot: int, what: str) -> Any:
        """A node takes a slot without what is in it; but for what it is given before."""
        node = self.nodes[number]
        if what == "IMPORTING" and slot in node.slots:
            return redis.ResponseError(f"I'm already the owner of hash slot {slot}")
        if what == "NODE" and slot not in node.slots:
            self._take(number, slot)
        (node.imports.add if what == "IMPORTING" else node.imports.discard)(slot)
        return b"OK"

    def _take(self, number: int, slot: int) -> None:
        self.epoch += 1
        name, source = self._new_name().decode(), self.owners[slot]
        one = Migration(name, slot, source, number, "cancelled", 0, {}, self.ticks)
        one.epoch, one.news = self.epoch, self.chance.choice([0.2, 0.02])
        self.migrations.append(one)
        self.owners[slot] = number
        self.nodes[number].slots[slot] = one.epoch

    def cancel(self, source: int) -> None:
        for one in self.migrations:
            if one.source == source and not one.over:
                one.state, one.paused_until = "cancelled", 0

    def takes_over(self, one: Migration) -> None:
        """Let the target have the slot now; the source has not heard of it."""
        self._grant(one)
        self._take_over(one)

    def _grant(self, one: Migration) -> None:
        one.state, one.paused_until = "failover-granted", self.ticks + PAUSE
        one.copy = self._taken(one.source, one.slot)

    def _take_over(self, one: Migration) -> None:
        assert one.copy is not None
        self._put(one.target, one.slot, one.copy)
        self.epoch += 1
        one.taken_at, one.epoch = self.ticks, self.epoch
        self.owners[one.slot] = one.target
        self.nodes[one.target].slots[one.slot] = one.epoch

    def go_on(self) -> None:
        """Whatever is under way gets a little further, or does not."""
        for one in self.migrations:
            if one.state == "replicating" and self.chance.random() < 0.1:
                self._grant(one)
            elif (
                one.state == "failover-granted"
                and self.ticks >= one.paused_until
                and self.chance.random() < 0.02
            ):
                one.state = "failed"
            if one.copy is not None and one.taken_at is None and self.chance.random() < one.haste:
                self._take_over(one)
            self._heard(one)
        self.migrations = [one for one in self.migrations if not self._forgotten(one)]

    def _heard(self, one: Migration) -> None:
        """Who had the slot learns that another has it now, sooner or later."""
        if one.taken_at is None:
            return
        surely = one.theirs or self.ticks - one.taken_at >= HEARD_WITHIN
        for number, node in enumerate(self.nodes):
            if node.slots.get(one.slot, one.epoch) < one.epoch and (
                surely or self.chance.random() < one.news
            ):
                del node.slots[one.slot]
                self._put(number, one.slot, {})
                if number == one.source and one.state == "failover-granted":
                    one.state, one.paused_until = "success", 0

    def _forgotten(self, one: Migration) -> bool:
        done = one.copy is None or (one.taken_at is not None and self._told_all(one))
        return one.over and done and self.chance.random() < 0.01

    def _told_all(self, one: Migration) -> bool:
        return all(node.slots.get(one.slot, one.epoch) >= one.epoch for node in self.nodes)

    def waits(self, number: int) -> bool:
        """Whether the node has taken a slot of which another has not heard. What may be stale if it forgets that
        docs/cluster.md says."""
        taken = (one for one in self.migrations if one.target == number and one.taken_at is not None)
        return any(not self._told_all(one) for one in taken)

    def _taken(self, number: int, slot: int) -> dict[bytes, Any]:
        return {key: self.clients[number].dump(key) for key in self._keys(number) if key_slot(key) == slot}

    def _keys(self, number: int) -> list[bytes]:
        return list(self.clients[number].scan_iter(f"*{{{self.namespace}*", count=1000))

    def _put(self, number: int, slot: int, values: dict[bytes, Any]) -> None:
        """Make this all that the node has of the slot."""
        client = self.clients[number]
        for key in self._keys(number):
            if key_slot(key) == slot:
                client.delete(key)
        for key, value in values.items():
            if value is not None and key_slot(key) == slot:
                client.restore(key, 60_000, value, replace=True)

    # -- what happens to them ------------------------------------------------------------------------------------------

    def remember(self) -> None:
        """A replica of some node is as far as its primary, and lags from now on."""
        number = self.chance.randrange(NODES)
        self.nodes[number].past = {key: self.clients[number].dump(key) for key in self._keys(number)}

    def fail_over(self) -> None:
        """A lagging replica is promoted; or the server was started anew, with nothing."""
        number = self.chance.randrange(NODES)
        node = self.nodes[number]
        if self.waits(number):
            return
        node.server = self._new_name()
        node.imports.clear()
        past = node.past if self.chance.random() < 0.7 else {}
        for slot in (*self.slots, self.map_slot):
            self._put(number, slot, past if slot in node.slots else {})
        for one in self.migrations:  # a target that is gone has dropped its copy, a source sends nothing more
            if number in (one.source, one.target):
                if one.taken_at is None:
                    one.copy = None
                if not one.over:
                    one.state, one.paused_until = "failed", 0

    def move_without_hand_over(self) -> None:
        """An operator moves a slot with the cluster's own means.

        All nodes hear of it at once, and a slot that has come is not moved on before anybody has met it: what may be
        stale otherwise docs/cluster.md says.
        """
        number = self.chance.randrange(SHARDS)
        slot = self.slots[number]
        source = self.owners[slot]
        control = Control.parse(self.clients[source].get(ShardKeys(self.namespace, number).ctl))
        met = control is None or not any(
            boot.isalnum() for boot in control.boots - {self.nodes[source].server}
        )
        target = self.chance.choice([n for n in range(NODES) if n != source])
        if met and slot in self.nodes[source].slots and self.migrate(slot, source, target) == b"OK":
            self.migrations[-1].theirs = True

    def end(self) -> None:
        """Leave nothing behind."""
        with suppress(ValueError):
            for client in self.clients:
                for key in client.scan_iter(f"{{{self.namespace}*", count=1000):
                    client.delete(key)
        for client in self.clients:
            client.close()
        self.connection.ask((("SELECT", 0),))
        self.connection.raw.disconnect()


def address(node: int) -> str:
    return f"{node}:{node}"


def _batches(commands: Any) -> list[Any]:
    """What runs without others in between: a transaction; and what is asked of a node that is to get the slot."""
    if commands[0] == ("MULTI",):
        return [commands]
    asking = [isinstance(one, tuple) and one == ("ASKING",) for one in (None, *commands)]
    return [commands[i : i + 1 + asking[i + 1]] for i in range(len(commands)) if not asking[i]]


def _slot(batch: Any) -> int | None:
    """Of the keys of a command, or of a transaction."""
    for command in batch:
        if isinstance(command, Call):
            return key_slot(command.keys[0])
        if command[0] in ("GET", "MGET", "SET", "UNLINK"):
            return key_slot(command[1] if isinstance(command[1], bytes) else command[1].encode())
    return None


def _told(one: Migration) -> dict[str, Any]:
    """A migration as the node tells of it."""
    return {
        "name": one.name,
        "operation": "EXPORT",
        "slot_ranges": f"{one.slot}-{one.slot}",
        "target_node": str(one.target),
        "state": one.state,
        "message": "",
    }
