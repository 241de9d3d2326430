"""What is written down about a job on the state server: its state, progress, cursor and report.

A job is one logical run. Here are its record and the rules for changing it, each one script, so that a producer, a
coordinator, the reaper and an operator may act at the same time. Who runs a job is `base`'s business, who asks for
one `send`'s. Times are the server's, in ms of Unix time; durations in seconds.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from secrets import token_hex
from typing import Any

import redis

from stoker.cache import keys
from stoker.config import JobSettings
from stoker.tasks import record, state_server
from stoker.tasks.errors import JobFailed
from stoker.tasks.state_server import TIMEOUT, bounded
from stoker.tasks.status import FIELDS, FINAL, JobStatus, State, from_hash

ANY, NOBODY = "any", "none"  # in place of a token, see finish.lua
_CLAIMED = ("args", "cursor", "done", "tries")
COUNTS_KEPT_MS = 30 * 86_400_000
MOST_COUNTED = 10_000
_MOST_DOUBLINGS = 6  # of the time between two looks of the reaper at one job


@dataclass(frozen=True, slots=True)
class Claim:
    """A coordinator's right to run a job, with what it needs to go on.

    Attributes:
        token: Proves the right; another coordinator's is another, and later ones compare greater.
        arguments: As they were sent.
        cursor: Where to go on; None at the beginning.
        done: Keys handled by then.
        starts: How often the job was started since it last made progress, this start included.
        tries: How often it stopped since then because the cache did not answer.
    """

    job_id: str
    target: str
    token: str
    arguments: dict[str, Any]
    cursor: dict[str, Any] | None
    done: int
    starts: int
    tries: int


@dataclass(frozen=True, slots=True)
class NotClaimed:
    """Why a job was not claimed: `busy` (until `wait` seconds from now), `lost`, or its final state."""

    reason: str
    wait: float = 0


@dataclass(frozen=True, slots=True)
class Census:
    """How many jobs there were and are.

    Attributes:
        ended: By kind and final state, since counting began or 30 days passed without any.
        unfinished: Those that are not over, at most 10,000.
        dead: Those that were given up and are still listed.
    """

    ended: dict[tuple[str, str], int]
    unfinished: list[JobStatus]
    dead: int


def target_of(kind: str, job_id: str, about: Mapping[str, Any] | None) -> tuple[str, bool]:
    """The name of what a job is about, and whether jobs of one name are one job.

    Equal arguments make equal names, so a second request joins the first; without any (`about` is None) each job is
    its own.
    """
    if about is None:
        return job_id, False
    if not about:
        return kind, True
    canonical = json.dumps(about, sort_keys=True, ensure_ascii=False).encode()
    return f"{kind}:{hashlib.sha256(canonical).hexdigest()[:24]}", True


class JobStore:
    """The jobs of one namespace. Every method is one round trip, takes `TIMEOUT` at most, and may raise
    `StateUnavailable`, after which it is unknown whether it took effect."""

    def __init__(self, url: str, namespace: str, settings: JobSettings) -> None:
        self._namespace = namespace
        self._lock_ms = int(settings.lock_ttl * 1000)
        self._ttl_ms = int(settings.ttl * 1000)
        self._keep_ms = int(settings.keep * 1000)
        self.lock_ttl = settings.lock_ttl
        self._redis = state_server.connect(url)
        self._open = self._script("open")
        self._claim = self._script("claim")
        self._begin = self._script("begin")
        self._progress = self._script("progress")
        self._finish = self._script("finish")
        self._postpone = self._script("postpone")
        self._drop = self._script("drop")

    def close(self) -> None:
        self._redis.close()

    def open(
        self,
        job_id: str,
        kind: str,
        arguments: Mapping[str, Any],
        about: Mapping[str, Any] | None,
        *,
        again: bool = False,
        delay: float = 0,
    ) -> str:
        """Write down a new job, and return its id, or the id of the unfinished job about the same, which it joins
        unless that was told to stop.

        Args:
            arguments: What its task is given, JSON-able.
            about: What makes two requests one job; None: nothing does.
            again: If a running job is joined, whether that makes one more pass.
            delay: Seconds until its task is due.
        """
        target, shared = target_of(kind, job_id, about)
        names = [self._job(job_id), keys.jobs(self._namespace), keys.jobs_unfinished(self._namespace)]
        if shared:
            names.append(keys.job_target(self._namespace, target))
        look_ms = self._lock_ms + int(delay * 1000)
        fields = {"kind": kind, "target": target, "shared": int(shared), "args": json.dumps(arguments)}
        counts = [job_id, self._ttl_ms, self._keep_ms, look_ms, self._job(""), int(again)]
        with bounded():
            return str(self._open(keys=names, args=[*counts, *_pairs(fields)]))

    def forget(self, job_id: str, kind: str, about: Mapping[str, Any] | None) -> None:
        """Take back a job that could not be published."""
        target, shared = target_of(kind, job_id, about)
        with bounded():
            if shared:
                self._drop(keys=[keys.job_target(self._namespace, target)], args=[job_id])
            pipeline = self._redis.pipeline()
            pipeline.delete(self._job(job_id))
            pipeline.zrem(keys.jobs(self._namespace), job_id)
            pipeline.zrem(keys.jobs_unfinished(self._namespace), job_id)
            pipeline.execute()

    def claim(self, job_id: str) -> Claim | NotClaimed:
        """Take the job's lock, which lives `lock_ttl` from now.

        Raises:
            JobFailed: The job's record cannot be read, which has ended the job.
        """
        with bounded():
            target = self._redis.hget(self._job(job_id), "target") or job_id
            names = [self._job(job_id), self._lock(target), keys.jobs_unfinished(self._namespace)]
            answer = self._claim(keys=names, args=[job_id, token_hex(8), self._lock_ms])
            if answer[0] == "busy":
                return NotClaimed("busy", max(answer[1], 0) / 1000)
            if answer[0] == "damaged":
                raise self._damaged(job_id, f"its {answer[1]} is not known to this version")
            if answer[0] != "claimed":
                return NotClaimed(answer[0])
            row = self._redis.hmget(self._job(job_id), _CLAIMED)
        found: dict[str, str | None] = dict(zip(_CLAIMED, row, strict=True))
        try:
            return Claim(
                *(job_id, target, answer[1]),
                arguments=record.needed(found, "args", record.mapping),
                cursor=record.read(found, "cursor", record.mapping, None),
                done=record.read(found, "done", record.whole, 0),
                starts=int(answer[2]),
                tries=record.read(found, "tries", record.whole, 0),
            )
        except record.Damaged as damage:
            raise self._damaged(job_id, str(damage)) from damage

    def arguments(self, job_id: str) -> dict[str, Any] | None:
        """What the task of an unfinished job is given; None if the job is over or not known.

        Raises:
            JobFailed: They cannot be read, which has ended the job.
        """
        with bounded():
            state, text = self._redis.hmget(self._job(job_id), "state", "args")
        if state is None or state in FINAL:
            return None
        try:
            return record.needed({"args": text}, "args", record.mapping)
        except record.Damaged as damage:
            raise self._damaged(job_id, str(damage)) from damage

    def _damaged(self, job_id: str, problem: str) -> JobFailed:
        """End a job whose record no run can go on from; otherwise it would be sent again until the record expires."""
        reason = f"its record is damaged: {problem}"
        self.finish(job_id, "failed", ANY, {"error": reason}, dead=True)
        return JobFailed(job_id, reason)

    def begin(self, job_id: str) -> tuple[str, int]:
        """Count a run of a job that needs no lock.

        Returns:
            Its state, or `lost`, and how often it was started since a run of it last ended in order; 0 if it is over.
        """
        with bounded():
            state, starts = self._begin(keys=[self._job(job_id)]) or ("lost", 0)
        return state, starts

    def progress(self, claim: Claim, fields: Mapping[str, Any] | None = None) -> str:
        """Renew the lock and write down how far the job is.

        Returns:
            `on`; `abort`: stop, it was asked for. Or, with nothing written: `taken` or `expired`: the lock is another's
            or nobody's; `lost`; a final state.
        """
        names = [self._job(claim.job_id), self._lock(claim.target), keys.jobs_unfinished(self._namespace)]
        given = [claim.job_id, claim.token, self._lock_ms, self._ttl_ms, *_pairs(fields or {})]
        with bounded():
            return str(self._progress(keys=names, args=given))

    def release(self, claim: Claim) -> None:
        """Give the lock back, if it is still held."""
        with bounded():
            self._drop(keys=[self._lock(claim.target)], args=[claim.token])

    def finish(
        self,
        job_id: str,
        state: State,
        token: str,
        fields: Mapping[str, Any] | None = None,
        *,
        keep: float | None = None,
        dead: bool = False,
    ) -> str:
        """Give the job its final state; see finish.lua for `token` and the answer.

        Args:
            keep: Seconds the record stays; None: as the settings say, which is also the most.
            dead: It was given up: list it as such, and keep it as long as an unfinished one, for it needs a look.
        """
        keep_ms = self._keep_ms if keep is None else min(int(keep * 1000), self._keep_ms)
        if dead:
            keep_ms = max(keep_ms, self._ttl_ms)
        with bounded():
            target, shared = self._redis.hmget(self._job(job_id), "target", "shared")
            names = [
                *(self._job(job_id), self._lock(target or job_id), keys.jobs_unfinished(self._namespace)),
                *(keys.job_done(self._namespace, job_id), keys.jobs_dead(self._namespace)),
                *keys.work(self._namespace, job_id),
                keys.jobs_counts(self._namespace),
            ]
            if target and shared == "1":
                names.append(keys.job_target(self._namespace, target))
            given = [job_id, state, keep_ms, token, int(dead), COUNTS_KEPT_MS, *_pairs(fields or {})]
            return str(self._finish(keys=names, args=given))

    def postpone(self, job_id: str, seconds: float, error: str = "") -> None:
        """Tell the reaper to leave the job alone for so long, because it will be started again by then."""
        with bounded():
            names = [self._job(job_id), keys.jobs_unfinished(self._namespace)]
            self._postpone(keys=names, args=[job_id, int(seconds * 1000) + self._lock_ms, 0, error])

    def status(self, job_id: str) -> JobStatus | None:
        """The job as it stands; None if the server does not know it."""
        return next(iter(self._statuses([job_id])), None)

    def recent(self, most: int) -> list[JobStatus]:
        """The newest jobs, newest first."""
        return self._listed(keys.jobs(self._namespace), most)

    def dead(self, most: int) -> list[JobStatus]:
        """The jobs that were given up, the latest first."""
        return self._listed(keys.jobs_dead(self._namespace), most)

    def census(self) -> Census:
        """How many jobs there were and are; for metrics."""
        with bounded():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.hgetall(keys.jobs_counts(self._namespace))
            pipeline.zrange(keys.jobs_unfinished(self._namespace), 0, MOST_COUNTED - 1)
            pipeline.zcard(keys.jobs_dead(self._namespace))
            ended, unfinished, dead = pipeline.execute()
        counted = {tuple(name.split("|", 1)): int(count) for name, count in ended.items() if "|" in name}
        statuses = [job for job in self._statuses(unfinished) if not job.final]
        return Census(counted, statuses, dead)

    def wait(self, job_id: str, seconds: float) -> None:
        """Return when the job is over, or after so many seconds (at most half of `TIMEOUT`)."""
        block_ms = max(1, int(min(seconds, TIMEOUT / 2) * 1000))
        with bounded():
            self._redis.xread({keys.job_done(self._namespace, job_id): "0"}, count=1, block=block_ms)

    def orphans(self, most: int = 100) -> Iterator[tuple[str, str]]:
        """Jobs without a sign of life for too long, as (id, kind). Each is named again after twice the time."""
        unfinished = keys.jobs_unfinished(self._namespace)
        with bounded():
            time, micros = self._redis.time()
            now = time * 1000 + micros // 1000
            due = self._redis.zrangebyscore(unfinished, "-inf", now, start=0, num=most)
        for job_id in due:
            with bounded():
                names = [self._job(job_id), unfinished]
                kind = self._postpone(keys=names, args=[job_id, self._lock_ms, _MOST_DOUBLINGS, ""])
            if kind:
                yield job_id, str(kind)

    def _listed(self, index: str, most: int) -> list[JobStatus]:
        with bounded():
            ids = self._redis.zrevrange(index, 0, most - 1)
        return list(self._statuses(ids))

    def _statuses(self, ids: Iterable[str]) -> Iterator[JobStatus]:
        wanted = list(ids)
        with bounded():
            pipeline = self._redis.pipeline(transaction=False)
            for job_id in wanted:
                pipeline.hmget(self._job(job_id), FIELDS)
            rows = pipeline.execute(raise_on_error=False)
            for row in rows:
                if isinstance(row, redis.RedisError) and not _is_no_record(row):
                    raise row
        for job_id, row in zip(wanted, rows, strict=True):
            found = {} if isinstance(row, Exception) else dict(zip(FIELDS, row, strict=True))
            if found.get("state") is not None:
                yield from_hash(job_id, found)

    def _job(self, job_id: str) -> str:
        return keys.job(self._namespace, job_id)

    def _lock(self, target: str) -> str:
        return keys.job_lock(self._namespace, target)

    def _script(self, name: str) -> Any:
        return state_server.script(self._redis, name)


def _is_no_record(error: redis.RedisError) -> bool:
    """Whether something else stands under the name of a job's record."""
    return "WRONGTYPE" in str(error)


def _pairs(fields: Mapping[str, Any]) -> Iterator[Any]:
    for name, value in fields.items():
        yield name
        yield json.dumps(value) if isinstance(value, dict) else "" if value is None else value
