"""Fifty thousand keys whose values are versions, their loader, and the plan that warms them."""

import os
import random
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from stoker.cache import LoadKey, loader
from stoker.tasks import warm_plan
from tests.versions import Versions

TENANTS = ("acme", "globex", "initech", "umbrella", "wayne")
GROUPS = NUMBERS = 100
SIZE = len(TENANTS) * GROUPS * NUMBERS
FILE = "STOKER_TEST_VERSIONS"


def key(group: int, number: int) -> str:
    return f"raced:{group}:{number}"


def place(tenant: int, group: int, number: int) -> int:
    """Of a key in the versions, which is its place in the plan too."""
    return (group * NUMBERS + number) * len(TENANTS) + tenant


@cache
def versions() -> Versions:
    return Versions(Path(os.environ[FILE]), SIZE)


@loader("raced:{group}:{number}", ttl=600, tags=["group {group}"], many=True)
def load_versions(keys: list[LoadKey]) -> dict[str, int]:
    """All versions are read first, then the answer is slow: what is invalidated meanwhile must not come back."""
    found = {key.key: versions().now(_place(key)) for key in keys}
    time.sleep(random.random() * versions().pause_us / 1e6)
    return found


@warm_plan("raced")
def raced() -> Iterator[tuple[str | None, str]]:
    for group in range(GROUPS):
        for number in range(NUMBERS):
            for tenant in TENANTS:
                yield tenant, key(group, number)


def _place(key: LoadKey) -> int:
    return place(TENANTS.index(str(key.tenant_id)), int(str(key.args["group"])), int(str(key.args["number"])))
