"""Settings of the cache's server that cause harm when memory is short: what will happen, and what to set instead.

Workers check them when they start, and refuse settings that would lose data; the doctor checks them too. The servers
are only asked, never changed.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import redis

from stoker.cache import ConfigError, plain_client
from stoker.cache.keys import EntryNames, is_of_a_cache
from stoker.cache.shards import MOST_SHARDS
from stoker.config import Settings
from stoker.worker.terminal import counted

log = logging.getLogger(__name__)

SAMPLE = 200
"""Random keys that tell what is on the server: what is a fiftieth of it is met 98 times out of 100."""
_FITTING = "CONFIG SET maxmemory-policy volatile-lfu, and the same in the server's configuration"
_ANSWERS_WITHIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that hurts.

    Attributes:
        about: A name for it.
        seen: What it is.
        cause: What will happen.
        remedy: What to set.
        loses_data: Whether what is lost is more than entries of a cache.
    """

    about: str
    seen: str
    cause: str
    remedy: str
    loses_data: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """What the server says.

    Attributes:
        policy: `maxmemory-policy`.
        limit_bytes: `maxmemory`; 0: none.
        sampled: Random keys looked at.
        foreign: Of them, those that are not Stoker's.
        databases: Others of the same server that hold keys.
        endless: Of them, entries that never expire.
        with_broker: Whether the broker, or the state of jobs, is on the same server.
    """

    policy: str
    limit_bytes: int
    sampled: int
    foreign: int
    databases: int
    endless: int
    with_broker: bool


def ask(settings: Settings) -> Facts | None:
    """Ask the cache's server, and the others who they are; None: it does not answer, or may not be asked."""
    try:
        with _client(str(settings.cache_url)) as client:
            info = client.info()
            ids = {_run_id(url) for url in {settings.broker(), settings.state()}}
            return facts(client, info, settings.namespace, with_broker=info.get("run_id") in ids)
    except (redis.RedisError, OSError, ValueError) as error:
        log.debug("the settings of the cache's server are not known: %s", error)
        return None


def facts(client: Any, info: dict[str, Any], namespace: str, *, with_broker: bool) -> Facts:
    """What INFO and a sample of the server's keys say. Raises RedisError if it may not be asked."""
    pipeline = client.pipeline(transaction=False)
    for _ in range(SAMPLE):
        pipeline.randomkey()
    names = [name for name in pipeline.execute() if name is not None]
    entries = EntryNames(namespace, MOST_SHARDS)
    ours = [name for name in names if entries.split(name) is not None]
    pipeline = client.pipeline(transaction=False)
    for name in ours:
        pipeline.pttl(name)
    endless = sum(ttl == -1 for ttl in pipeline.execute())
    foreign = sum(not is_of_a_cache(name) for name in names)
    policy, limit = str(info.get("maxmemory_policy", "noeviction")), int(info.get("maxmemory", 0))
    own = f"db{client.connection_pool.connection_kwargs.get('db') or 0}"
    databases = sum(name.startswith("db") and name[2:].isdigit() and name != own for name in info)
    return Facts(policy, limit, len(names), foreign, databases, endless, with_broker)


def problems(found: Facts, evict_every: float | None) -> Iterator[Problem]:
    """What hurts, the worst first."""
    if found.with_broker:
        yield _one_server(found)
    elif found.policy.startswith("allkeys-") and (found.foreign or found.databases):
        yield _other_data(found)
    if not found.limit_bytes:
        yield Problem(
            "no limit",
            "the cache's server has no maxmemory",
            "nothing is evicted, by nobody, until the machine has no memory left",
            "CONFIG SET maxmemory 1gb (what the machine can spare), and the same in its configuration",
        )
    elif found.policy == "noeviction" and evict_every is None:
        yield Problem(
            "nobody evicts",
            "maxmemory-policy is noeviction, and STOKER_BEAT__EVICT_EVERY is none",
            "nobody makes room; once the server is full, `set` returns False and loads are not kept",
            f"STOKER_BEAT__EVICT_EVERY=30, or {_FITTING}",
        )
    if found.policy.startswith("volatile-") and found.endless:
        yield _endless_entries(found, evict_every)


def _one_server(found: Facts) -> Problem:
    if found.policy.startswith("allkeys-") and found.limit_bytes:
        return Problem(
            "one server",
            f"cache and broker are one server, and its maxmemory-policy is {found.policy}",
            "when entries fill it, it evicts queued tasks and jobs with them",
            "give the broker a server of its own (STOKER_BROKER_URL), with noeviction",
            loses_data=True,
        )
    what = "refuses tasks as well" if found.policy == "noeviction" else "evicts the records of jobs with them"
    return Problem(
        "one server",
        "cache and broker are one server",
        f"when entries fill it, it {what}; and a flush of the cache takes the queues with it",
        "give the broker a server of its own (STOKER_BROKER_URL), with noeviction",
    )


def _other_data(found: Facts) -> Problem:
    """Under `allkeys-*` there are keys that are not ours."""
    return Problem(
        "other data",
        f"{found.foreign} of {found.sampled} random keys, and {counted(found.databases, 'other database')}, "
        f"are not Stoker's, and maxmemory-policy is {found.policy}",
        "when entries fill the server, it evicts the other program's data with them",
        f"another server for the cache, or {_FITTING}",
    )


def _endless_entries(found: Facts, evict_every: float | None) -> Problem:
    """Under `volatile-*` there are entries without a TTL."""
    who = "only stoker.evict drops them" if evict_every is not None else "nobody drops them"
    return Problem(
        "endless entries",
        f"{found.endless} of {found.sampled} random keys are entries that never expire",
        f"{found.policy} does not evict them; {who}, and if they fill the server it refuses to store",
        "give entries a ttl, however long; set STOKER_DEFAULT_TTL",
    )


def check(settings: Settings) -> None:
    """Log what hurts.

    Raises:
        ConfigError: It would lose data.
    """
    found = ask(settings)
    if found is None:
        return
    for problem in problems(found, settings.beat.evict_every):
        if problem.loses_data:
            raise ConfigError(
                "STOKER_CACHE_URL",
                "(the cache's server)",
                f"{problem.seen}: {problem.cause}; {problem.remedy}",
            )
        log.warning("%s: %s; %s", problem.seen, problem.cause, problem.remedy)


def _client(url: str) -> Any:
    return plain_client.client(
        url, socket_connect_timeout=_ANSWERS_WITHIN_S / 2, socket_timeout=_ANSWERS_WITHIN_S
    )


def _run_id(url: str) -> str | None:
    try:
        with _client(url) as client:
            return str(client.info("server")["run_id"])
    except (redis.RedisError, OSError, ValueError, KeyError):  # not there yet, or hides it: nothing to say
        return None
