"""Snapshots of the hottest keys on the state server: what is warmed again when the cache has begun cold.

Two are kept: the newest, and the last one of an earlier life of the cache, for what was taken after a cold start may
have seen little but the start. So none of few keys takes the place of one of many while that is less than a day old.
Several that take snapshots at once do no harm: each writes what is true of what it has read.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from stoker.cache import keys
from stoker.cache.tenancy import check_key, tenant_field
from stoker.tasks import state_server
from stoker.tasks.hot_store import HotKey
from stoker.tasks.state_server import bounded

KEPT_MS = 7 * 86_400_000
"""How long they outlive the last snapshot."""
STALE_MS = 86_400_000
_NOW, _BEFORE = "now", "before"

Pair = tuple[str | None, str]


@dataclass(frozen=True, slots=True)
class HotSnapshot:
    """The hottest keys at one moment.

    Attributes:
        life: Of the cache, see `hot_keys.life_of`.
        at_ms: The state server's time.
        keys: With their tenants, hottest first.
    """

    life: str
    at_ms: int
    keys: tuple[Pair, ...]

    def gives_way_to(self, other: "HotSnapshot") -> bool:
        """Whether the other is of as many keys, or at least half as many; an old one gives way to any."""
        return 2 * len(other.keys) >= len(self.keys) or other.at_ms - self.at_ms > STALE_MS


class HotSnapshots:
    """The snapshots of one namespace. Every method may raise `StateUnavailable`."""

    def __init__(self, url: str, namespace: str) -> None:
        self._key = keys.hot_snapshots(namespace)
        self._redis = state_server.connect(url)

    def close(self) -> None:
        self._redis.close()

    def is_due(self, every: float) -> bool:
        """Whether the newest is older than so many seconds."""
        now_ms, kept = self._read()
        return not (_NOW in kept and 0 <= now_ms - kept[_NOW].at_ms < every * 1000)

    def take(self, life: str, hottest: Sequence[HotKey]) -> bool:
        """Keep these keys as the newest snapshot. Returns whether they were kept: worse ones are not."""
        now_ms, kept = self._read()
        new = HotSnapshot(life, now_ms, tuple((hot.tenant_id, hot.key) for hot in hottest))
        newest, before = kept.get(_NOW), kept.get(_BEFORE)
        if not new.keys:
            return False
        changes = {_NOW: _text(new)}
        if newest is not None and newest.life != life:
            if before is None or before.gives_way_to(newest):
                changes[_BEFORE] = _text(newest)
        elif newest is not None and not newest.gives_way_to(new):
            return False
        with bounded():
            pipeline = self._redis.pipeline()
            pipeline.hset(self._key, mapping=changes)
            pipeline.pexpire(self._key, KEPT_MS)
            pipeline.execute()
        return True

    def before(self, life: str) -> HotSnapshot | None:
        """What was hot before this life of the cache began; None if no snapshot of an earlier one is kept."""
        _, kept = self._read()
        earlier = [kept[name] for name in (_NOW, _BEFORE) if name in kept and kept[name].life != life]
        if len(earlier) == 2 and not earlier[1].gives_way_to(earlier[0]):
            return earlier[1]
        return earlier[0] if earlier else None

    def _read(self) -> tuple[int, dict[str, HotSnapshot]]:
        with bounded():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.hmget(self._key, _NOW, _BEFORE)
            pipeline.time()
            texts, (seconds, micros) = pipeline.execute()
        found = zip((_NOW, _BEFORE), map(_snapshot, texts), strict=True)
        return seconds * 1000 + micros // 1000, {name: one for name, one in found if one is not None}


def _text(snapshot: HotSnapshot) -> str:
    return json.dumps(asdict(snapshot), separators=(",", ":"))


def _snapshot(text: str | None) -> HotSnapshot | None:
    """None for what is none: nobody of ours wrote it, or another version."""
    try:
        found: Any = json.loads(text or "")
        pairs = tuple((tenant, check_key(key)) for tenant, key in found["keys"])
        for tenant, _ in pairs:
            tenant_field(tenant)
        return HotSnapshot(str(found["life"]), int(found["at_ms"]), pairs)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
