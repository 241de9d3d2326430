"""Changes of the cache's server as events: the task of beat that notices them, whoever else did.

A process that begins a new life of the ban log tells of it at once if it has our hooks (`engine_events`). Here is what
finds the change when that process had none, or ended too soon; both name the event alike, so it is handled once.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha1
from typing import Any

from stoker.cache import CacheMonitor
from stoker.cache.lives import Lives
from stoker.tasks import names, pressure, rules, runtime
from stoker.tasks.app import app
from stoker.tasks.base import JobTask
from stoker.tasks.engine_events import cold_id
from stoker.tasks.events import COLD, NODES
from stoker.tasks.publish import publish

log = logging.getLogger(__name__)

PRESSURE = "cache.pressure"


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen.

    Attributes:
        pressed: Whether memory was above the high mark, and not below the low one since.
        crossings: How often that began.
        primaries: Nodes of the cluster that may have slots; empty where there is no cluster.
    """

    lives: Lives
    pressed: bool
    crossings: int
    primaries: frozenset[str] = frozenset()


@app.task(name=names.WATCH, bind=True, shared=False, base=JobTask)
def watch(self: JobTask, /, **message: Any) -> dict[str, Any]:
    """Publish `cache.cold`, `cache.pressure` and `nodes.changed` if there is cause; make this worker's rules known.

    Safe to run twice, and safe to lose: the next look compares with the last one that was written down.
    """
    names.check(self.name, message)
    here = runtime.current()
    here.events.announce(rules.known())
    return {"published": look(here)}


def look(here: runtime.Runtime) -> list[str]:
    """Compare with the last look, publish what changed, and write this one down. Returns the names.

    Raises:
        NotSent: The broker did not take one of them; nothing is written down, so the next look tells them all.
    """
    before = _read(here.events.last_look())
    now = _look(here, before)
    told = list(_changes(here, before, now)) if before is not None else []
    for name, payload, event_id in told:
        publish(name, payload, event_id=event_id)
    here.events.write_look(_fields(now))
    return [name for name, _, _ in told]


def _look(here: runtime.Runtime, before: Look | None) -> Look:
    monitor = CacheMonitor(here.cache)
    pressed = pressure.look(here).pressed
    crossings = before.crossings if before else 0
    crossed = pressed and not (before is not None and before.pressed)
    return Look(monitor.get_lives(), pressed, crossings + crossed, monitor.get_primaries())


def _changes(here: runtime.Runtime, before: Look, now: Look) -> Iterator[tuple[str, dict[str, Any], str]]:
    namespace = here.settings.namespace
    was, is_ = before.lives, now.lives
    if len(was.incarnations) == len(is_.incarnations):  # else the cache was sharded anew
        for shard, (old, new) in enumerate(zip(was.incarnations, is_.incarnations, strict=True)):
            if old != new:
                facts = {"namespace": namespace, "shard": shard, "reason": "seen", "incarnation": new}
                yield COLD, facts, cold_id(shard, new)
    if nodes := _nodes_changed(before, now):
        servers = {"before": sorted(was.servers), "now": sorted(is_.servers)}
        facts = {"namespace": namespace, **servers, **nodes}
        # Nodes come and go without a new life: what there was, and is, names the change.
        change = sha1(json.dumps(facts).encode(), usedforsecurity=False).hexdigest()[:16]
        yield NODES, facts, f"nodes.{is_.incarnations[0]}.{change}"
    if now.crossings != before.crossings:
        high = here.settings.high_watermark
        yield (
            PRESSURE,
            {"namespace": namespace, "above": high},
            f"pressure.{is_.incarnations[0]}.{now.crossings}",
        )


def _nodes_changed(before: Look, now: Look) -> dict[str, list[str]] | None:
    """The primaries that have come and gone; None if all is as it was. Where one list is empty it was not known."""
    was, is_ = before.lives.servers, now.lives.servers
    restarted = bool(was and is_ and was != is_)
    changed = bool(before.primaries and now.primaries and before.primaries != now.primaries)
    if not restarted and not changed:
        return None
    if not changed:
        return {"joined": [], "left": []}
    return {
        "joined": sorted(now.primaries - before.primaries),
        "left": sorted(before.primaries - now.primaries),
    }


def _fields(look: Look) -> dict[str, str]:
    return {
        "incarnations": json.dumps(look.lives.incarnations),
        "servers": json.dumps(sorted(look.lives.servers)),
        "pressed": str(int(look.pressed)),
        "crossings": str(look.crossings),
        "primaries": json.dumps(sorted(look.primaries)),
    }


def _read(found: dict[str, str]) -> Look | None:
    """The last look; None if there was none that can be read."""
    try:
        seen = Lives(tuple(json.loads(found["incarnations"])), frozenset(json.loads(found["servers"])))
        primaries = frozenset(json.loads(found.get("primaries", "[]")))
        return Look(seen, found["pressed"] == "1", int(found["crossings"]), primaries)
    except (KeyError, ValueError, TypeError):
        return None
