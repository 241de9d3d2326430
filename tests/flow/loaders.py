"""Loaders for the workers of these tests. Each call of the slow one is written down on the cache's server."""

import json
import os
import signal
import time
from dataclasses import dataclass

import redis

from stoker.cache import LoadKey, loader


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a loader: by which process, and for which keys."""

    pid: int
    keys: tuple[str, ...]


def calls_key(namespace: str) -> str:
    return f"{namespace}:test:calls"


def calls(client: redis.Redis, namespace: str) -> list[Call]:
    """All calls, in order."""
    lines = [json.loads(line) for line in client.lrange(calls_key(namespace), 0, -1)]
    return [Call(pid, tuple(keys)) for pid, keys in lines]


def set_pace(client: redis.Redis, namespace: str, seconds: float) -> None:
    """Let the slow loader take so long a key from now on, in every process."""
    client.set(_pace_key(namespace), seconds, ex=600)


def _pace_key(namespace: str) -> str:
    return f"{namespace}:test:pace"


@loader("slow:{number}", ttl=600, many=True)
def load_slowly(keys: list[LoadKey]) -> dict[str, object]:
    namespace = os.environ["STOKER_NAMESPACE"]
    written_to = calls_key(namespace)
    with redis.Redis.from_url(os.environ["STOKER_CACHE_URL"]) as client:
        pause = float(client.get(_pace_key(namespace)) or os.environ["STOKER_TEST_LOAD_SECONDS"])
        client.rpush(written_to, json.dumps([os.getpid(), [key.key for key in keys]]))
        client.expire(written_to, 600)
    time.sleep(pause * len(keys))
    return {key.key: {"number": int(str(key.args["number"]))} for key in keys}


@loader("broken:{number}")
def load_never(number: int) -> object:
    raise ValueError(f"no coal for {number}")


@loader("deadly:{number}")
def load_and_die(number: int) -> object:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


@loader("fresh:{number}", ttl=600, soft_ttl=0.2)
def load_with_pid(number: int) -> object:
    return {"number": number, "pid": os.getpid(), "at": time.time()}


METERED_RATE = 200
METERED_AT_ONCE = 2


@loader("metered:{number}", ttl=600, many=True, rate=METERED_RATE, concurrency=METERED_AT_ONCE)
def load_metered(keys: list[LoadKey]) -> dict[str, object]:
    """Writes down when each call begins and ends, and how many keys it is for."""
    meter = meter_key(os.environ["STOKER_NAMESPACE"])
    with redis.Redis.from_url(os.environ["STOKER_CACHE_URL"]) as client:
        call = f"{os.getpid()}.{time.monotonic_ns()}"
        client.rpush(meter, json.dumps([call, time.time(), len(keys)]))
        time.sleep(0.1)
        client.rpush(meter, json.dumps([call, time.time(), 0]))
        client.expire(meter, 600)
    return {key.key: key.args["number"] for key in keys}


def meter_key(namespace: str) -> str:
    return f"{namespace}:test:meter"
