"""The seed that random histories begin with, and what is asked of them when a guard was taken away."""

import os
import sys
from collections.abc import Callable

from tests.cache.cluster_world import Stale

SEED = int(os.environ.get("STOKER_TEST_SEED", "1"))
MOST = 300
"""Histories that are played before a guard counts as needless."""


def assert_missed(play: Callable[[int], object]) -> None:
    """In one of the histories, played by its seed, something stale must be served."""
    for seed in range(SEED, SEED + MOST):
        try:
            play(seed)
        except Stale as stale:
            sys.stdout.write(f"seed {seed}: {stale}\n")
            return
    raise AssertionError("the guard is not missed")
