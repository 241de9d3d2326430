"""What the crew does, the same for every contender: read through the cache, change the truth, have it forgotten.

What is chosen, and how slow a load is, depend on the seed alone, never on what the cache answers.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from benchmarks.consistency.peer import Change, Item, Load, Peer, Seat, answer
from stoker.worker.verify.judge import Judge
from stoker.worker.verify.source import often_the_same
from stoker.worker.verify.world import (
    KEYS,
    PATTERNS,
    TAGS,
    TENANTS,
    keys_that_match,
    keys_with_tag,
    tag_of,
)

READERS = 3
CROWD = 10
CROWDED_KEYS = 4
CROWD_PAUSE_S = 0.06
READ_PAUSE_S = 0.004
WRITE_PAUSE_S = 0.09
AGAIN = 0.3
"""Share of changes to the key that was changed last."""
RETRY_S = 0.02


@dataclass
class Desk:
    """What one thread or task has to itself: its choices, the pauses of its loads, its judge."""

    seat: Seat
    slot: int
    peer: Peer
    chance: random.Random
    pauses: random.Random
    judge: Judge
    last: int = 0

    @classmethod
    def at(cls, seat: Seat, slot: int, peer: Peer, seed: str) -> "Desk":
        """The desk of this seed."""
        chance, pauses = random.Random(f"{seed} choices"), random.Random(f"{seed} pauses")
        return cls(seat, slot, peer, chance, pauses, Judge(seat.world))


Work = Callable[[Desk], Awaitable[None]]


async def read_anything(desk: Desk) -> None:
    """A read of any tenant's, some keys far more often."""
    await _read(desk, desk.chance.randrange(len(TENANTS)), often_the_same(desk.chance), 0.0)
    await asyncio.sleep(desk.chance.random() * READ_PAUSE_S)


async def read_with_the_crowd(desk: Desk) -> None:
    """A slow key of the first tenant's, which many want at once."""
    await _read(desk, 0, desk.chance.randrange(CROWDED_KEYS), CROWD_PAUSE_S)
    await asyncio.sleep(desk.chance.random() * CROWD_PAUSE_S)


async def _read(desk: Desk, tenant: int, key: int, longest: float) -> None:
    load = Load(desk.seat, desk.pauses, tenant, key, longest)
    least = desk.seat.world.acknowledged(tenant, key)
    try:
        got = await answer(desk.peer.read(_item(tenant, key), load))
    except Exception as error:  # its request would have failed
        desk.judge.error("read", error)
    else:
        desk.judge.served("read", tenant, key, least, got)
        desk.judge.add("reads")
        desk.judge.add("hits", not load.ran)
    desk.seat.count(desk.judge.take())


async def write(desk: Desk) -> None:
    """Change the truth of the tenant that has the slot's number, whose only writer this is, and have it forgotten."""
    chance, world, tenant = desk.chance, desk.seat.world, desk.slot
    key = desk.last if chance.random() < AGAIN else often_the_same(chance)
    keys, tell = _change(desk.peer, chance, tenant, key)
    desk.last = keys[0]
    versions = world.change(tenant, keys)
    while not world.stopped:
        try:
            await answer(tell())
        except Exception as error:
            world.note(f"write: {type(error).__name__}: {error}")
            desk.seat.count({"unacked": 1})
            await asyncio.sleep(RETRY_S)
        else:
            world.acknowledge(tenant, versions)
            desk.seat.count({"acks": 1})
            break
    await asyncio.sleep(chance.random() ** 2 * WRITE_PAUSE_S)


def _change(
    peer: Peer, chance: random.Random, tenant: int, key: int
) -> tuple[list[int], Callable[[], object]]:
    """Keys that change together, and how the cache is told."""
    tag, pattern, kind = chance.choice(TAGS), chance.choice(PATTERNS), chance.random()
    if kind < 0.6:
        return [key], lambda: peer.forget_keys(_together(tenant, [key]))
    if kind < 0.8:
        keys = keys_with_tag(tag)
        return keys, lambda: peer.forget_tag(_together(tenant, keys)._replace(tag=tag))
    if kind < 0.95:
        keys = keys_that_match(pattern)
        return keys, lambda: peer.forget_pattern(_together(tenant, keys)._replace(pattern=pattern))
    keys = list(range(len(KEYS)))
    return keys, lambda: peer.forget_tenant(_together(tenant, keys))


def _tenant(tenant: int) -> str:
    """A name that means nothing to anybody's patterns: those of `stoker verify` would hurt who promises nothing."""
    return f"tenant{tenant}"


def _item(tenant: int, key: int) -> Item:
    return Item(_tenant(tenant), KEYS[key], tag_of(key))


def _together(tenant: int, keys: Sequence[int]) -> Change:
    return Change(_tenant(tenant), [_item(tenant, key) for key in keys])


CREW: tuple[tuple[Work, int], ...] = (
    *[(write, 1)] * len(TENANTS),
    *[(read_anything, READERS)] * 2,
    (read_with_the_crowd, CROWD),
)
"""A process each, with so many threads or tasks that do the same. The place is the slot."""
