"""Random numbers of the cache's own: an app may have seeded those of the module `random`, alike in all processes."""

import os
from random import Random

CHANCE = Random()
os.register_at_fork(after_in_child=CHANCE.seed)
