"""What is written down about events on the state server: who runs which rule, what is done, and the dead letters.

An event is written down before it is published, because a worker that is killed may lose a message between taking it
from the broker and saying so. Once its rules are known, each pair of event and rule has a record of its own, so no rule
waits for another. A run claims the pair, renews the claim while it lasts, and writes down how it ended. What gives no
sign of life for too long is sent again by the reaper. Times are the server's, in ms of Unix time; durations in seconds.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import uuid4

import redis

from stoker.cache import keys
from stoker.config import EventSettings, JobSettings
from stoker.tasks import event_record, state_server
from stoker.tasks.event_record import FIELDS, DeadLetter, Overview
from stoker.tasks.events import Event, is_id
from stoker.tasks.state_server import bounded

MOST_DEAD = 1000
"""Dead letters that are kept: the newest."""
DEAD_KEPT_MS = 7 * 86_400_000
MOST_RECENT = 200
COUNTS_KEPT_MS = 30 * 86_400_000
DAY_MS = 86_400_000
LOOK_AFTER = 4
"""Lives of a claim until the reaper looks at what was sent and nobody began; then twice as long, and so on."""
_MOST_DOUBLINGS = 6
_LONGEST_ERROR = 1000

End = Literal["done", "failed", "later", "dead"]


@dataclass(frozen=True, slots=True)
class Claimed:
    """A run may begin.

    Attributes:
        token: Proves the right.
        runs: How many were begun, with this one; those that were put off do not count.
        waits: How often it was put off because a server was away.
    """

    token: str
    runs: int
    waits: int


@dataclass(frozen=True, slots=True)
class NotClaimed:
    """Why not: `done`, `dead`, or `busy` until `wait` seconds from now."""

    reason: str
    wait: float = 0


class EventStore:
    """The events of one namespace. Every method takes about a second at most for each round trip, and may raise
    `StateUnavailable`, after which it is unknown whether it took effect."""

    def __init__(self, url: str, namespace: str, settings: EventSettings, job: JobSettings) -> None:
        self._namespace = namespace
        self._keep_ms = round(settings.keep * 1000)
        self._open_ms = max(round(job.ttl * 1000), self._keep_ms)
        self._claim_ms = round(job.lock_ttl * 1000)
        self.claim_ttl = job.lock_ttl
        self._redis = state_server.connect(url)
        self._look_ms = LOOK_AFTER * self._claim_ms
        self._open = state_server.script(self._redis, "event_open")
        self._accept = state_server.script(self._redis, "event_accept")
        self._claim = state_server.script(self._redis, "event_claim")
        self._hold = state_server.script(self._redis, "event_hold")
        self._end = state_server.script(self._redis, "event_end")
        self._forget = state_server.script(self._redis, "event_forget")
        self._announce = state_server.script(self._redis, "event_rules")

    def close(self) -> None:
        self._redis.close()

    def open(self, event: Event) -> str:
        """Write down an event that is about to be published.

        Returns:
            `new`, `known`, or `seen to`: then its rules are, and it need not be published.
        """
        given = [_pair(event.id), event.model_dump_json(), self._open_ms, self._look_ms]
        with bounded():
            return str(self._open(keys=self._names(event.id), args=given))

    def withdraw(self, event: Event) -> None:
        """Take back an event that could not be published."""
        record, index = self._names(event.id)
        with bounded():
            pipeline = self._redis.pipeline()
            pipeline.delete(record)
            pipeline.zrem(index, _pair(event.id))
            pipeline.execute()

    def accept(self, event: Event, rules: Sequence[str]) -> bool:
        """From now on see to each of these rules instead of the event. Returns False if that was done before."""
        names = [*self._names(event.id), *(self._record(event.id, rule) for rule in rules)]
        given = [_pair(event.id), event.model_dump_json(), self._open_ms, self._look_ms, self._keep_ms]
        pairs = [word for rule in rules for word in (_pair(event.id, rule), rule)]
        with bounded():
            return bool(self._accept(keys=names, args=[*given, *pairs]))

    def claim(self, event: Event, rule: str) -> Claimed | NotClaimed:
        """Begin to run a rule for an event, unless that is done, dead, or being done."""
        token = uuid4().hex
        given = [_pair(event.id, rule), token, self._claim_ms, self._open_ms, event.model_dump_json(), rule]
        with bounded():
            answer = self._claim(keys=self._names(event.id, rule), args=given)
        if answer[0] == "claimed":
            return Claimed(token, int(answer[1]), int(answer[2]))
        return NotClaimed(answer[0], int(answer[1]) / 1000 if answer[0] == "busy" else 0)

    def hold(self, event: Event, rule: str, token: str) -> bool:
        """Renew the claim; returns whether it still is this run's."""
        given = [_pair(event.id, rule), token, self._claim_ms]
        with bounded():
            return bool(self._hold(keys=self._names(event.id, rule), args=given))

    def end(self, event: Event, rule: str, token: str, how: End, error: str = "", delay: float = 0) -> bool:
        """Write down how a run ended: `done`, `failed` or `later` (it runs again after `delay`), or `dead`.

        Returns:
            Whether it was written; not if the claim had become another's.
        """
        return self._write(event.id, rule, token, how, error, delay, _shown(event, rule))

    def note(self, event: Event, what: Literal["unmatched", "again"]) -> None:
        """Count an event that needed no run."""
        counts, recent = keys.events_counts(self._namespace), keys.events_recent(self._namespace)
        with bounded():
            pipeline = self._redis.pipeline()
            pipeline.hincrby(counts, what, 1)
            pipeline.pexpire(counts, COUNTS_KEPT_MS)
            if what == "unmatched":
                pipeline.xadd(recent, {"outcome": what, **_shown(event, "")}, maxlen=MOST_RECENT)
                pipeline.pexpire(recent, COUNTS_KEPT_MS)
            pipeline.execute()

    def refuse(self, found: Any, error: str) -> None:
        """Make a dead letter of what is no event that this version understands."""
        told = found.get("id") if isinstance(found, dict) else None
        event_id, text = str(told if is_id(told) else uuid4()), event_record.refused(found)
        with bounded():
            pipeline = self._redis.pipeline()
            pipeline.hset(self._record(event_id), mapping={"event": text, "rule": ""})
            pipeline.pexpire(self._record(event_id), DEAD_KEPT_MS)
            pipeline.execute()
        self._write(event_id, "", "", "dead", error, 0, {"id": event_id})

    def overdue(self, most: int = 100) -> Iterator[tuple[dict[str, Any], str]]:
        """Events, and rules for one (else empty), that nobody has begun for too long, or whose run was killed. Each is
        named again after twice the time, for it may only be waiting in a long queue."""
        index = keys.events_open(self._namespace)
        with bounded():
            now = self._now()
            due = self._redis.zrangebyscore(index, "-inf", now, start=0, num=most)
        for pair in due:
            record = self._prefix() + pair
            with bounded():
                [row] = self._rows([record], ("event", "rule", "looks"))
                found = event_record.mapping_or_none(row["event"])
                if found is None or row["rule"] is None:  # expired, or not ours
                    self._redis.zrem(index, pair)
                    continue
                looks = event_record.count(row["looks"]) + 1
                pipeline = self._redis.pipeline()
                pipeline.hset(record, "looks", looks)
                pipeline.zadd(index, {pair: now + self._look_ms * 2 ** min(looks, _MOST_DOUBLINGS)}, xx=True)
                pipeline.execute()
            yield found, row["rule"]

    def dead(self, most: int = MOST_DEAD) -> list[DeadLetter]:
        """The dead letters, the latest first."""
        with bounded():
            pairs = self._redis.zrevrange(keys.events_dead(self._namespace), 0, most - 1)
            rows = self._rows([self._prefix() + pair for pair in pairs], FIELDS)
        found = zip(pairs, rows, strict=True)
        return [event_record.letter(pair, row) for pair, row in found if row["event"] is not None]

    def revive(self, letter: DeadLetter) -> None:
        """Let what is dead be run again, as if it had never been. It stays listed until `forget`, or it is done."""
        record, index = self._names(letter.id, letter.rule)
        with bounded():
            pipeline = self._redis.pipeline()
            pipeline.hset(record, "state", "open")
            pipeline.hdel(record, "runs", "waits", "looks", "began_at")
            pipeline.pexpire(record, DEAD_KEPT_MS)
            pipeline.zadd(index, {_pair(letter.id, letter.rule): self._now() + self._look_ms})
            pipeline.pexpire(index, self._open_ms)
            pipeline.execute()

    def forget(self, letter: DeadLetter) -> None:
        """Take a letter off the list, unless it is a newer one of the same rule and event by now."""
        given = [_pair(letter.id, letter.rule), round(letter.died_at * 1000)]
        with bounded():
            self._forget(keys=[keys.events_dead(self._namespace)], args=given)

    def announce(self, rules: Mapping[str, str]) -> None:
        """Write down the rules that the workers have; each stays for a day from when it was last told."""
        if not rules:
            return
        told = [word for rule in rules.items() for word in rule]
        with bounded():
            self._announce(keys=[keys.events_rules(self._namespace)], args=[DAY_MS, *told])

    def last_look(self) -> dict[str, str]:
        """What `watch` saw last; empty: nothing is known."""
        with bounded():
            return dict(self._redis.hgetall(keys.watch(self._namespace)))

    def write_look(self, fields: Mapping[str, str]) -> None:
        """Keep what `watch` saw, for a day."""
        name = keys.watch(self._namespace)
        with bounded():
            pipeline = self._redis.pipeline()
            pipeline.hset(name, mapping=dict(fields))
            pipeline.pexpire(name, DAY_MS)
            pipeline.execute()

    def overview(self, most: int = 20) -> Overview:
        """Rules, counts, the latest outcomes, and how much is dead or unfinished."""
        with bounded():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.hgetall(keys.events_rules(self._namespace))
            pipeline.hgetall(keys.events_counts(self._namespace))
            pipeline.xrevrange(keys.events_recent(self._namespace), count=most)
            pipeline.zcard(keys.events_dead(self._namespace))
            pipeline.zcard(keys.events_open(self._namespace))
            rules, counts, recent, dead, unfinished = pipeline.execute()
        return Overview(
            event_record.rules(rules),
            event_record.counts(counts),
            tuple(event_record.outcome(entry_id, fields) for entry_id, fields in recent),
            dead,
            unfinished,
        )

    def _write(
        self, event_id: str, rule: str, token: str, how: End, error: str, delay: float, shown: dict[str, str]
    ) -> bool:
        others = (keys.events_dead, keys.events_counts, keys.events_recent)
        names = [*self._names(event_id, rule), *(name(self._namespace) for name in others)]
        kept = {"done": self._keep_ms, "dead": DEAD_KEPT_MS}.get(how, self._open_ms)
        look_ms = round(delay * 1000) + self._look_ms
        given = [
            *(_pair(event_id, rule), token, how, kept, look_ms, error[:_LONGEST_ERROR], COUNTS_KEPT_MS),
            *(f"{how}|{rule}" if rule else "refused", MOST_DEAD, self._prefix(), MOST_RECENT),
            *(word for pair in shown.items() for word in pair),
        ]
        with bounded():
            return bool(self._end(keys=names, args=given))

    def _rows(self, records: Sequence[str], fields: Sequence[str]) -> list[dict[str, str | None]]:
        """These fields of each record; all None where something else stands under its name."""
        pipeline = self._redis.pipeline(transaction=False)
        for record in records:
            pipeline.hmget(record, fields)
        rows = pipeline.execute(raise_on_error=False)
        nothing = [None] * len(fields)
        return [
            dict(zip(fields, nothing if isinstance(row, redis.ResponseError) else row, strict=True))
            for row in rows
        ]

    def _now(self) -> int:
        seconds, micros = self._redis.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def _names(self, event_id: str, rule: str = "") -> list[str]:
        return [self._record(event_id, rule), keys.events_open(self._namespace)]

    def _record(self, event_id: str, rule: str = "") -> str:
        return keys.event(self._namespace, event_id, rule)

    def _prefix(self) -> str:
        return self._record("").removesuffix(":")


def _pair(event_id: str, rule: str = "") -> str:
    return f"{event_id}:{rule}"  # an event's id holds no colon


def _shown(event: Event, rule: str) -> dict[str, str]:
    return {"id": event.id, "name": event.name, "tenant": event.tenant_id or "", "rule": rule}
