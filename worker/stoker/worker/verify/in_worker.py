"""What the Celery workers of a run import as their loaders: the registered ones of `source`, and what spoils their day.

`workers` starts them with these variables; without them importing this does nothing.
"""

import os
import random
from pathlib import Path

from stoker.tasks.app import app
from stoker.worker.verify import crew, source
from stoker.worker.verify.duplicates import deliver_twice
from stoker.worker.verify.world import World

FOLDER, SLOT, SEED, BROKEN = "VERIFY_FOLDER", "VERIFY_SLOT", "VERIFY_SEED", "VERIFY_BROKEN"


def _begin() -> None:
    world, slot, seed = World(Path(os.environ[FOLDER])), int(os.environ[SLOT]), int(os.environ[SEED])
    crew.note_errors(world, slot)
    crew.alter(seed, [name for name in os.environ[BROKEN].split(",") if name])
    source.read_from(world, seed + 1)
    deliver_twice(app, random.Random(seed), lambda: world.count(slot, {"duplicates": 1}))


if FOLDER in os.environ:
    _begin()
