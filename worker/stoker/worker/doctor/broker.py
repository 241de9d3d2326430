"""The broker's server, and that of the jobs if it is another: reachable, not the cache's, losing nothing."""

from collections.abc import Iterator

from stoker.worker.doctor import sentinels
from stoker.worker.doctor.check import CannotCheck, Finding, error, ok, warning
from stoker.worker.doctor.server import Server, replica
from stoker.worker.doctor.system import System

NEARLY_FULL = 0.9


def check(system: System) -> Iterator[Finding]:
    settings = system.settings
    yield from sentinels.check("STOKER_BROKER_URL", settings.broker_url)
    yield from _judge(system.broker, system)
    yield from sentinels.check("STOKER_STATE_URL", settings.state_url)
    if system.state_server is not system.broker:
        yield from _judge(system.state_server, system)


def _judge(server: Server, system: System) -> Iterator[Finding]:
    yield ok(f"{server.version} at {server.address} answers")
    if server.is_replica:
        yield replica(server)
    yield from _not_the_caches(server, system)
    yield from _keeps_all(server)
    yield from _survives_a_restart(server)


def _not_the_caches(server: Server, system: System) -> Iterator[Finding]:
    try:
        cache = system.cache_server
    except CannotCheck:  # told by the check of the cache's server
        return
    if server.run_id and server.run_id == cache.run_id:
        yield warning(
            f"STOKER_CACHE_URL and {server.setting} are one server",
            "eviction and FLUSHALL work on the whole server, also between its databases: what is evicted or flushed "
            "from the cache takes queued tasks and jobs with it",
            f"start another server with config/redis-broker.conf and point {server.setting} to it",
        )


def _keeps_all(server: Server) -> Iterator[Finding]:
    if server.policy == "noeviction" or not server.limit_bytes:
        yield ok("nothing is evicted from it")
    else:
        lost = (
            "jobs and their locks, which have a TTL"
            if server.policy.startswith("volatile")
            else "queued tasks"
        )
        yield error(
            f"its maxmemory-policy is {server.policy}",
            f"when memory runs out the server drops {lost}, without a word",
            f"CONFIG SET maxmemory-policy noeviction at {server.address}, and the same in its configuration",
        )
    if server.limit_bytes and server.used_bytes > NEARLY_FULL * server.limit_bytes:
        yield warning(
            f"{server.used_bytes / server.limit_bytes:.0%} of its maxmemory is used",
            "queues that nobody empties, or too little memory; a full broker refuses every task",
            "see the workers' queues; CONFIG SET maxmemory to more",
        )


def _survives_a_restart(server: Server) -> Iterator[Finding]:
    facts = server.facts
    if not facts.get("aof_enabled"):
        yield warning(
            "it keeps no append-only file",
            "queued invalidations, warm-ups and all jobs are lost when it restarts",
            f"CONFIG SET appendonly yes at {server.address}, and the same in its configuration",
        )
    elif facts.get("aof_last_write_status", "ok") != "ok":
        yield error(
            "its last write to the append-only file failed",
            "most likely its disk is full",
            "make room on the disk of the server's `dir`; its log names the error",
        )
    else:
        yield ok("it keeps an append-only file")
