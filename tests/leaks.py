"""Nothing of a test stays: no key for ever, and on the session's servers none for the next test to meet.

What is estimated from a sample of a server's keys would depend on who came before. A conftest turns the check on for
its folder by importing the fixture.
"""

import re
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from stoker.cache import plain_client

_CONTROL_STATE = re.compile(rb"\{[^}]+\}:(map|ctl|bans|marks)")  # it must not expire before what it judges
_ENTRY = re.compile(rb"\{[^}]+\}:e:")
_HARD_MS = slice(40, 48)  # of an entry's header: when it expires; 0: its caller gave it no TTL
_OF_CELERY = re.compile(  # queues among them
    rb"_kombu\.|.+\.unacked(_index|_mutex)?$|.+\.(published|events|invalidate|refresh|warm|maintenance)$|.+\.pidbox$"
)


def kept_for_ever(url: str) -> set[bytes]:
    """The keys without a TTL, but for Celery's and those that `stoker.cache.keys` calls permanent."""
    with plain_client.client(url) as client:
        names = list(client.scan_iter(count=5000))
        pipeline = client.pipeline(transaction=False)
        for name in names:
            pipeline.pttl(name)
        stays = [name for name, ttl in zip(names, pipeline.execute(), strict=True) if ttl == -1]
        return {name for name in stays if not _may_stay(client, name)}


def _may_stay(client: Any, name: bytes) -> bool:
    if _ENTRY.match(name):
        (hard_ms,) = struct.unpack("<q", client.get(name)[_HARD_MS])
        return bool(hard_ms == 0)
    return bool(_CONTROL_STATE.fullmatch(name) or _OF_CELERY.match(name))


def take_away(client: Any, namespace: str) -> None:
    """Delete the keys of a test's namespace, and of those that begin with its name."""
    names = list(client.scan_iter(f"*{namespace}*", count=5000))
    for first in range(0, len(names), 1000):
        client.unlink(*names[first : first + 1000])


@pytest.fixture(autouse=True)
def nothing_is_kept_for_ever(cache_server: str, broker_server: str, namespace: str) -> Iterator[None]:
    """After the test, with all of its processes gone, no key of ours is left without a TTL. They are taken away."""
    servers = {"cache": cache_server, "broker": broker_server}
    before = {role: kept_for_ever(url) for role, url in servers.items()}
    yield
    left = {role: kept_for_ever(url) - before[role] for role, url in servers.items()}
    for url in servers.values():
        with plain_client.client(url) as client:
            take_away(client, namespace)
    assert not any(left.values()), f"kept for ever: {left}"
