"""The work of a warm that the fleet shares, on the state server: see `stoker.cache.work` for what it means.

One coordinator deals, any number of processes take units. What a killed one had taken is anybody's again after
`lock_ttl`; a unit whose takers keep dying is given up. `warm` deals, `warm_batch` helps.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from stoker.cache import keys
from stoker.cache.budget import Limit
from stoker.cache.protocol import Name
from stoker.cache.warm_report import COUNTS, MOST_ERRORS, Outcome, Tally, WarmReport
from stoker.cache.work import MOST_UNITS, Unit, failing_more, leftovers, settled
from stoker.config import JobSettings
from stoker.tasks import state_server
from stoker.tasks.errors import JobLost
from stoker.tasks.renewal import Renewal
from stoker.tasks.state_server import bounded, patiently

T = TypeVar("T")
MOST_TAKEN = 3
"""How often a unit is taken before it is given up: its loader hangs, or kills whoever calls it."""
_DEADLY = f"given up: {MOST_TAKEN} workers were killed, or had no answer, while they loaded it or others of its batch"
_encode = msgspec.json.Encoder().encode
_unit = msgspec.json.Decoder(tuple[list[tuple[str | None, str]], int, float]).decode
_error = msgspec.json.Decoder(tuple[str, str]).decode
_limits = msgspec.json.Decoder(list[tuple[str, float | None, int | None]]).decode


class SharedWork:
    """One process's access to the work of one job.

    Every method may take as long as a job's lock lives before it raises StateUnavailable: what is away for a moment
    does not end a warm.

    Raises:
        JobLost: The state server does not know the work: its job is over, or the server was flushed.
    """

    def __init__(self, url: str, namespace: str, settings: JobSettings, job_id: str) -> None:
        self._job_id = job_id
        self._keys = keys.work(namespace, job_id)
        self._lock_ttl = settings.lock_ttl
        self._lock_ms = int(settings.lock_ttl * 1000)
        self._ttl_ms = int(settings.ttl * 1000)
        self._client: Any = state_server.connect(url)
        self._taken: set[str] = set()
        self._dealer = self._life = ""
        self._dealt = 0
        steps = ("begin", "deal", "close", "take", "done", "put_back", "renew", "stop")
        self._scripts = {step: state_server.script(self._client, f"work_{step}") for step in steps}

    def begin(self, version: str, limits: Sequence[Limit], dealer: str) -> None:
        """Begin, or go on if the keys still have this version; no coordinator before `dealer` may deal any more."""
        args = (version, _encode([tuple(limit) for limit in limits]), self._ttl_ms, dealer)
        self._life, dealt = self._run("begin", *args)
        self._dealer, self._dealt = dealer, int(dealt)

    def has_begun(self) -> bool:
        """Whether an earlier run has begun it."""
        return bool(self._asked(lambda: self._client.hexists(self._keys[0], "version")))

    def limits(self) -> list[Limit]:
        """What whoever began it was told."""
        stored = self._asked(lambda: self._client.hget(self._keys[0], "limits"))
        if stored is None:
            raise self._lost()
        return [Limit(*limit) for limit in _limits(stored)]

    def tally(self) -> Tally:
        found: dict[str, str] = self._asked(lambda: self._client.hgetall(self._keys[0]))
        if "version" not in found:
            raise self._lost()
        counts = {name: int(found.get(name, 0)) for name in COUNTS}
        told = (found.get(f"error:{n}") for n in range(1, MOST_ERRORS + 1))
        errors = tuple(_error(text) for text in told if text is not None)
        report = WarmReport(**counts, errors=errors, stopped=found.get("stopped", ""))
        dealt, left, failing = (int(found[name]) for name in ("dealt", "left", "failing"))
        return Tally(dealt, left, failing, "closed" in found, report)

    def deal(self, names: Sequence[Name], bad: Outcome) -> bool:
        unit = Unit(f"{self._life}.{self._dealt}", names)
        failed = bad.counts.get("failed", 0)
        given = (self._dealt, unit.id, _text(unit), len(names), failed, MOST_UNITS, self._ttl_ms)
        answer = self._run("deal", *given, self._dealer, *(_encode(error) for error in bad.errors))
        if answer == "lost":
            raise self._lost()
        if answer == "dealt":
            self._dealt += len(names) + failed
        return bool(answer == "dealt")

    def close(self) -> None:
        self._run("close")

    def take(self) -> Unit | float | None:
        while True:
            answer = self._run("take", self._lock_ms)
            if not answer:
                return None
            if len(answer) == 1:
                return float(answer[0]) / 1000
            unit_id, text, taken = answer
            unit = Unit(unit_id, *_unit(text))
            if taken <= MOST_TAKEN:
                self._taken.add(unit_id)
                return unit
            self._give_up(unit)

    def _give_up(self, unit: Unit) -> None:
        outcome = Outcome()
        for _, key in unit.names:
            outcome.fail(key, _DEADLY)
        self.done(unit, outcome)

    def done(self, unit: Unit, outcome: Outcome) -> None:
        self._taken.discard(unit.id)
        left = [
            part
            for again, pause in leftovers(unit, outcome)
            for part in (again.id, _text(again), round(pause * 1000))
        ]
        counts = {
            **outcome.counts,
            "left": -settled(unit, outcome),
            "failing": failing_more(unit, outcome),
        }
        pairs = [part for item in counts.items() for part in item]
        errors = [_encode(error) for error in outcome.errors]
        self._run("done", unit.id, self._ttl_ms, len(left) // 3, *left, len(counts), *pairs, *errors)

    def put_back(self, unit: Unit) -> None:
        self._taken.discard(unit.id)
        self._run("put_back", unit.id)

    def stop(self, reason: str, error: tuple[str, str]) -> None:
        self._run("stop", reason, _encode(error))

    def kept(self) -> Renewal:
        """Keeps what this process has taken, inside the block."""
        return Renewal(f"batches of job {self._job_id}", self._lock_ttl, self._keep)

    def _keep(self) -> bool:
        if taken := list(self._taken):
            with bounded():
                self._scripts["renew"](keys=self._keys, args=(self._lock_ms, self._ttl_ms, *taken))
        return True

    def _run(self, step: str, *args: Any) -> Any:
        return self._asked(lambda: self._scripts[step](keys=self._keys, args=args))

    def _asked(self, ask: Callable[[], T]) -> T:
        """All that is asked may be asked twice."""
        return patiently(ask, self._lock_ttl)

    def _lost(self) -> JobLost:
        return JobLost(self._job_id, "the state server does not know its work; it is over, or was flushed")

    def disconnect(self) -> None:
        """Close the connection."""
        self._client.close()


def _text(unit: Unit) -> bytes:
    return _encode((unit.names, unit.round, unit.since))
