"""What the cache's server says of its memory. For `evict`, `usage` and the monitor."""

from typing import Any, NamedTuple

from stoker.cache.wire import Operation


class MemoryUse(NamedTuple):
    """Bytes that count against `maxmemory`, `maxmemory` itself (0: no limit), and its policy."""

    used: int
    limit: int
    policy: str

    @property
    def counted(self) -> bool:
        """Whether the server counts reads; otherwise it knows when the last one was."""
        return self.policy.endswith("-lfu")

    @property
    def share(self) -> float:
        """Of the limit; 0 without one."""
        return self.used / self.limit if self.limit else 0.0


def read() -> Operation[MemoryUse]:
    """Ask the server."""
    return of(facts((yield (("INFO", "memory"),)).reply()))


def facts(info: bytes) -> dict[str, str]:
    """The fields of an INFO answer."""
    lines = info.decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def whole(found: dict[str, Any], name: str) -> int:
    """A field that is a whole number; 0 if the server does not tell it."""
    text = str(found.get(name, ""))
    return int(text) if text.isdigit() else 0


def of(found: dict[str, str]) -> MemoryUse:
    """What the fields say. Replication and persistence buffers do not count: eviction could not free them."""
    used = whole(found, "used_memory") - whole(found, "mem_not_counted_for_evict")
    return MemoryUse(used, whole(found, "maxmemory"), found.get("maxmemory_policy", "noeviction"))
