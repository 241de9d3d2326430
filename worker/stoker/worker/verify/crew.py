"""Who works on a run, and how a process becomes a member of the crew."""

import logging
import math
import os
import random
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from stoker.cache import PlacementMismatch, warm_slice
from stoker.cache.caps import Caps
from stoker.cache.control import BanLog
from stoker.cache.shards import Agreement
from stoker.worker.verify import async_readers, guards, readers, source, writers
from stoker.worker.verify.plan import Plan
from stoker.worker.verify.post import Post
from stoker.worker.verify.producer import produce
from stoker.worker.verify.world import TENANTS, World

Role = Callable[[Post], None]

READERS: tuple[Role, ...] = (
    readers.read,
    async_readers.read_on_asyncio,
    async_readers.read_on_uvloop,
    readers.crowd,
)
"""Those that the fault `cut` may cut off: nobody else has to go on without a server."""
TINY = Caps(patterns=1, named=4, many_patterns=1, many_bans=4, stride=2)
"""Of a ban log: no tenant has more rules than this for long."""


def crew(plan: Plan) -> tuple[Role, ...]:
    """A plan's roles; the place is the slot. A writer's slot is also its tenant; the last one may be the producer's."""
    tellers = [*[writers.write] * (len(TENANTS) - 2), writers.write_async]
    return (*tellers, produce if plan.jobs else writers.write, *READERS, writers.warm, writers.sweep)


def be(role: Role, post: Post, broken: Sequence[str]) -> NoReturn:
    """Take up a role in this process, which is a fork, and end with it.

    In a group of its own it is out of reach of a terminal's Ctrl-C. It ends when its parent is gone, or, if it cannot
    as it is stopped, is ended by the parent's guard.
    """
    status = 1
    try:
        os.setpgid(0, 0)
        note_errors(post.world, post.slot)
        alter(post.seed, broken)
        source.read_from(post.world, post.seed + 1)
        role(post)
        status = 0
    except BaseException:
        post.world.note(traceback.format_exc().replace("\n", " / "))
        post.world.count(post.slot, {"errors": 1})
    finally:
        os._exit(status)


def alter(seed: int, broken: Sequence[str]) -> None:
    """Let answers come late in this process, every eighth one keep ban logs tiny, every second one warm slow loads in
    batches too, and take guards away.

    Nobody waits for others to write a lost map again: runs are short.
    """
    guards.delay_answers(random.Random(seed))
    Agreement.patience_s = 0.0
    if seed % 8 == 0:
        BanLog.caps = TINY
    if seed % 2 == 0:
        warm_slice.QUICK_S = math.inf
    for name in broken:
        guards.GUARDS[name]()


def note_errors(world: World, slot: int) -> None:
    """Count what the product logs as an error in this process as one."""
    logger = logging.getLogger("stoker")
    logger.addHandler(_Notes(world, slot))
    logger.propagate = False


class _Notes(logging.Handler):
    def __init__(self, world: World, slot: int) -> None:
        super().__init__(logging.ERROR)
        self._world = world
        self._slot = slot

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and isinstance(record.exc_info[1], PlacementMismatch):
            return  # a refresh in the background was refused, as its readers are
        self._world.note(f"log: {self.format(record)}".replace("\n", " / "))
        self._world.count(self._slot, {"errors": 1})
