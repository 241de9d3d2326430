"""Sentinels that name a server: whether they answer, agree, and could replace the primary if it failed."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError
from redis.retry import Retry

from stoker.cache import sentinel_url
from stoker.cache.sentinel_url import Address, is_sentinel
from stoker.worker.doctor.check import Finding, error, note, ok, warning
from stoker.worker.terminal import counted

ANSWERS_WITHIN_S = 0.5


@dataclass
class _Heard:
    """What they say: each one's primary, how many others it knows, and who says nothing or does not know the name."""

    primaries: dict[Address, Address] = field(default_factory=dict)
    known: int = 0
    replicas: int = 0
    silent: dict[Address, str] = field(default_factory=dict)
    strangers: list[Address] = field(default_factory=list)
    no_quorum: str = ""


def check(setting: str, url: str | None) -> Iterator[Finding]:
    """What is to be said of the Sentinels in a URL; nothing if there are none in it."""
    if url is None or not is_sentinel(url):
        return
    group = sentinel_url.parse(url)
    heard = _Heard()
    for address in group.sentinels:
        with redis.Redis.from_url(
            group.sentinel(address),
            decode_responses=True,
            socket_connect_timeout=ANSWERS_WITHIN_S,
            socket_timeout=ANSWERS_WITHIN_S,
            retry=Retry(NoBackoff(), 0),
        ) as client:
            _listen(client, group.name, address, heard)
    yield from _judge(setting, group.name, heard)


def _listen(client: Any, name: str, address: Address, heard: _Heard) -> None:
    try:
        state = client.sentinel_master(name)
        heard.primaries[address] = Address(state["ip"], state["port"])
        heard.known = max(heard.known, 1 + state["num-other-sentinels"])
        well = [one for one in client.sentinel_slaves(name) if one.get("master-link-status") == "ok"]
        heard.replicas = max(heard.replicas, len(well))
        client.execute_command("SENTINEL", "CKQUORUM", name)
    except ResponseError as refused:
        if "No such master" in str(refused):
            heard.strangers.append(address)
        elif "NOQUORUM" in str(refused):
            heard.no_quorum = str(refused)
        else:
            heard.silent[address] = str(refused)
    except (redis.RedisError, OSError) as failure:
        heard.silent[address] = str(failure) or type(failure).__name__


def _judge(setting: str, name: str, heard: _Heard) -> Iterator[Finding]:
    for address, why in heard.silent.items():
        yield warning(
            f"the Sentinel at {address} gives no good answer: {why}",
            "it is down or cut off, or asks for another password; if all are, nobody is told of a fail-over",
            f"start it, or correct {setting}; sentinel_password= in the URL is for Sentinels",
        )
    for address in heard.strangers:
        yield error(
            f"the Sentinel at {address} monitors no primary called {name!r}",
            f"the name in {setting} is wrong, or this Sentinel belongs to another group",
            f"SENTINEL MASTERS at {address} lists the names; correct {setting}",
        )
    if not heard.primaries:
        return
    named = sorted(set(map(str, heard.primaries.values())))
    if len(named) > 1:
        yield warning(
            f"Sentinels name different primaries: {', '.join(named)}",
            "a fail-over is under way, or some are cut off from the others",
            "run `stoker doctor` again; if it stays, look at the network between the Sentinels",
        )
    else:
        yield ok(
            f"{counted(len(heard.primaries), 'Sentinel')} of {name} asked, {heard.known} known, primary {named[0]}, "
            f"{counted(heard.replicas, 'replica')}"
        )
    yield from _could_fail_over(setting, heard)


def _could_fail_over(setting: str, heard: _Heard) -> Iterator[Finding]:
    if heard.no_quorum:
        yield warning(
            f"the primary could not be replaced: {heard.no_quorum}",
            "too few Sentinels are there to agree on it",
            "start those that are missing; three on three machines is the least that survives one machine",
        )
    if not heard.replicas:
        yield warning(
            "the primary has no replica that follows it",
            "if it fails nobody can take over",
            "start a replica, or look at the log of the one that does not follow",
        )
    missing = heard.known - len(heard.primaries) - len(heard.silent) - len(heard.strangers)
    if missing > 0:
        yield note(
            f"{counted(missing, 'Sentinel')} of the group are not in {setting}",
            "a process asks only those that it is told of",
            f"name all of them in {setting}, with commas between them",
        )
