"""What is stored under one key, and why it is served or not: an operation for `redis`."""

from typing import Any

from stoker.cache import entry
from stoker.cache.protocol import Name, Shard
from stoker.cache.wire import Operation


def facts(shard: Shard, name: Name) -> Operation[dict[str, Any]]:
    """The entry's state and header, its lease, and the control record that it is judged by."""
    view = yield from shard.catch_up()
    stored, lease = shard.keys.entry(*name), shard.keys.lease(*name)
    answer = yield (("GET", stored), ("PTTL", stored), ("PTTL", lease), ("MEMORY", "USAGE", stored))
    blob, ttl_ms, lease_ms, size = (answer.reply(i) for i in range(4))
    found: dict[str, Any] = {
        "redis_key": stored.decode(),
        "state": "absent",
        "lease_ms": lease_ms if lease_ms >= 0 else None,
        "incarnation": view.control.incarnation.hex(),
        "head": view.control.head,
        "floor": view.control.floor,
        "bans": len(view.bans),
    }
    if blob is None:
        return found
    meta = entry.unpack(blob)
    if meta is None:
        return {**found, "state": "unreadable"}
    if shard.judge(view, name, blob) is not None:
        state = "live"
    else:
        state = "banned" if meta.incarnation == view.control.incarnation else "outdated"
    return {
        **found,
        "state": state,
        "seq": meta.seq,
        "tags": list(meta.tags),
        "ttl_ms": ttl_ms if ttl_ms >= 0 else None,
        "soft_ms": meta.soft_ms or None,
        "load_us": meta.load_us,
        "payload_bytes": meta.payload_len,
        "memory_bytes": size,
        "compressed": bool(meta.flags & 1),
    }
