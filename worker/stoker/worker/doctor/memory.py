"""How full the cache's server is, and how well it uses its memory."""

from collections.abc import Iterator

from stoker.worker import memory_settings
from stoker.worker.doctor.check import Finding, note, ok, warning
from stoker.worker.doctor.server import Server
from stoker.worker.doctor.system import System
from stoker.worker.terminal import counted

HIGH_FRAGMENTATION = 1.5
FRAGMENTED_BYTES = 100 * 2**20
"""Wasted memory below which its share does not matter."""


def check(system: System) -> Iterator[Finding]:
    yield ok(counted(system.usage["cache_size"], "entry"))
    for server in system.cache_nodes:
        yield from _judge(server, system)


def _judge(server: Server, system: System) -> Iterator[Finding]:
    used, limit = server.used_bytes, server.limit_bytes
    told = f"{_mib(used)} used at {server.address}"
    if not limit:
        yield warning(
            f"{told}; maxmemory is not set",
            "nothing is evicted, neither by Stoker nor by the server, until the machine has no memory left",
            "CONFIG SET maxmemory 1gb (what the machine can spare), and the same in the server's configuration",
        )
    else:
        yield from _share(system, f"{told}, {used / limit:.0%} of {_mib(limit)}", used / limit)
    yield from _fragmentation(server.facts)
    yield from _whose(server, system)


def _whose(server: Server, system: System) -> Iterator[Finding]:
    """Keys that the server's policy treats as nobody would want."""
    settings = system.settings
    found = memory_settings.facts(server.client, server.facts, settings.namespace, with_broker=False)
    told = [
        problem
        for problem in memory_settings.problems(found, settings.beat.evict_every)
        if problem.about in ("other data", "endless entries")
    ]
    for problem in told:
        yield warning(problem.seen, problem.cause, problem.remedy)
    if not told and settings.default_ttl is None and server.policy.startswith("volatile"):
        yield note(
            "STOKER_DEFAULT_TTL is none",
            f"entries without a TTL are not evicted under {server.policy}; only stoker.evict drops them",
            "give entries a TTL, however long",
        )


def _share(system: System, told: str, share: float) -> Iterator[Finding]:
    settings = system.settings
    if share <= settings.high_watermark:
        yield ok(told)
        return
    yield warning(
        f"{told}: above STOKER_HIGH_WATERMARK={settings.high_watermark:g}",
        "entries come in faster than stoker.evict drops them, or it does not run (see pressure)",
        "CONFIG SET maxmemory to more; shorter TTLs; a lower STOKER_BEAT__EVICT_EVERY; now: send.evict()",
    )


def _fragmentation(facts: dict[str, object]) -> Iterator[Finding]:
    ratio = float(str(facts.get("mem_fragmentation_ratio", 0)))
    wasted = int(str(facts.get("mem_fragmentation_bytes", 0)))
    if ratio > HIGH_FRAGMENTATION and wasted > FRAGMENTED_BYTES:
        yield warning(
            f"the server holds {ratio:.1f} times the memory it uses: {_mib(wasted)} are wasted",
            "many entries were deleted or changed their size, and left holes in its pages",
            "CONFIG SET activedefrag yes, or MEMORY PURGE at a quiet hour; a restart empties the cache",
        )


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
