"""Rules for the workers of these tests. How often they ran is counted on the cache's server."""

import os
import signal
import time

import redis

from stoker.tasks import Action, Event, Invalidate, Warm, on_event


def runs(url: str, namespace: str) -> dict[str, int]:
    """Event id to how often a counting rule ran for it."""
    with redis.Redis.from_url(url, decode_responses=True) as client:
        return {str(event_id): int(times) for event_id, times in client.hgetall(_key(namespace)).items()}


def _key(namespace: str) -> str:
    return f"{namespace}:test:runs"


def _count(event: Event) -> int:
    key = _key(os.environ["STOKER_NAMESPACE"])
    with redis.Redis.from_url(os.environ["STOKER_CACHE_URL"]) as client:
        times = int(client.hincrby(key, event.id, 1))
        client.expire(key, 600)
    return times


@on_event("counted.#")
def count(event: Event) -> None:
    time.sleep(event.get("seconds", 0))
    _count(event)


@on_event("slow.changed")
def invalidate_then_warm(event: Event) -> list[Action]:
    key = f"slow:{event['number']}"
    return [Warm(keys=[key]), Invalidate(keys=[key])]


@on_event("broken.*")
def break_off(event: Event) -> None:
    raise ValueError(f"no coal for {event['number']}")


@on_event("broken.*")
def count_beside(event: Event) -> None:
    _count(event)


@on_event("hanging")
def hang(event: Event) -> None:
    """Longer than its time limit; if it is told to, past the end of its process too."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            time.sleep(1)
        except Exception:
            if not event["stubborn"]:
                raise


@on_event("deadly")
def die(event: Event) -> None:
    if _count(event) <= event["times"]:
        os.kill(os.getpid(), signal.SIGKILL)
