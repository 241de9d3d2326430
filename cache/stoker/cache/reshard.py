"""Changing where keys live: another number of shards, another function, a tenant pinned to a shard (rule 5).

The namespace's map is replaced by another one, and what was stored under the old ends with it: everything begins cold.
On one server a script does both at once; `cluster_map` has the longer way. Either may be killed anywhere and run again.
Processes that leave the placement to the map go by the new one at their next operation; others are refused.

Only backends and `core` use it.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple, Protocol

from stoker.cache import scripts
from stoker.cache.bans import Control
from stoker.cache.control import ATTEMPTS
from stoker.cache.errors import CacheUnavailable
from stoker.cache.keys import ShardKeys
from stoker.cache.programs import Effect
from stoker.cache.shards import MOST_SHARDS, Agreement, Placement, parsed
from stoker.cache.steps import Step
from stoker.cache.wire import Call, Operation


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be different.

    Attributes:
        num_shards: None: as many as there are.
        pin: Tenants, and the shard that all keys of each are to live in; others keep their pins.
        unpin: Tenants whose keys are to be spread again.
        function: Whether this process's `shard_key_func` is to take the place of another one.
    """

    num_shards: int | None = None
    pin: Mapping[str, int] = field(default_factory=dict)
    unpin: Sequence[str] = ()
    function: bool = False

    def of(self, placement: Placement, stored: Mapping[str, Any] | None) -> Placement:
        """What the placement of a map becomes; `placement` has this process's function, and what it was told.

        Raises:
            PlacementMismatch: The map was made with another function, which was not to change.
            ConfigError: See `Placement.changed`.
        """
        now = placement if stored is None else placement.named_in(stored, any_function=self.function)
        pins = {**dict(now.pins), **self.pin}
        for tenant in self.unpin:
            pins.pop(tenant, None)
        return placement.changed(self.num_shards or now.num_shards, pins)


@dataclass(frozen=True, slots=True)
class ReshardReport:
    """What a change of placement did.

    Attributes:
        num_shards, pins: As they are now.
        before: As many shards as there were when the map was replaced, and all entries ended; 0: it was not there.
            None: it said so already.
        unlinked: Keys of shards that are no more. Those of the others are left to sweeps.
    """

    num_shards: int = 0
    pins: Mapping[str, int] = field(default_factory=dict)
    before: int | None = None
    unlinked: int = 0


class Changed(NamedTuple):
    """The placement that rules now, the map that says so, and the shards there were, if it was another map."""

    placement: Placement
    stored: bytes
    before: int | None = None


class Tidied(NamedTuple):
    """One page of each node: where to go on (nothing more: "0"), keys looked at, and keys unlinked."""

    cursors: dict[str, str]
    scanned: int
    unlinked: int


class Changing(Protocol):
    """The backend, as a change wants it."""

    def change(self, change: Change) -> Operation[Changed]: ...

    def tidy(self, cursors: Mapping[str, str], batch: int) -> Operation[Tidied]: ...


def change_map(keys: ShardKeys, agreement: Agreement, change: Change) -> Operation[Changed]:
    """Replace the map of a namespace on one server, and end all control records with it, in one script.

    Raises:
        PlacementMismatch: Another setting than the placement is not this process's; or see `Change.of`.
        CacheUnavailable: The map cannot be read, or keeps changing.
    """
    for _ in range(ATTEMPTS):
        answer = yield (("GET", keys.map), *(("GET", name) for name in keys.every_ctl(1)))
        raw = answer.reply(0)
        stored = None if raw is None else parsed(raw)
        if stored is not None:
            agreement.check_settings(stored)
        elif change.num_shards is None and (control := Control.parse(answer.reply(1))) is not None:
            agreement.check_standing(control.digest)
        wanted = Agreement(agreement.map, change.of(agreement.placement, stored))
        if raw is not None and stored is not None and wanted.places_as(stored):
            return Changed(wanted.placement, raw)
        proposed = wanted.propose()
        names = (keys.map, *keys.every_control(MOST_SHARDS))
        if (yield (Call(scripts.OPEN, names, (wanted.ruling[1], proposed, raw or b"")),)).reply() == proposed:
            return Changed(wanted.placement, proposed, stored["num_shards"] if stored else 0)
    raise CacheUnavailable("redis", "the namespace's map keeps changing; try again")


def reshard_steps(
    backend: Changing, change: Change, batch: int, cursor: dict[str, Any] | None
) -> Generator[Effect | Step[ReshardReport], Any, None]:
    """Change the map, then unlink the keys of shards that are no more, yielding after each batch.

    Raises:
        CacheUnavailable: Not all is known to be changed; give the last step's cursor, or none, to go on.
    """
    if cursor:
        report, at, done = ReshardReport(**cursor["report"]), cursor["at"], cursor["done"]
    else:
        placement, _, before = yield backend.change(change)
        report = ReshardReport(placement.num_shards, dict(placement.pins), before)
        at, done = {}, 0
        yield _step(report, at, done, last=False)
    while True:
        tidied: Tidied = yield backend.tidy(at, batch)
        done += tidied.scanned
        report = replace(report, unlinked=report.unlinked + tidied.unlinked)
        at = tidied.cursors
        last = all(one == "0" for one in at.values())
        yield _step(report, at, done, last=last)
        if last:
            return


def _step(report: ReshardReport, at: dict[str, str], done: int, *, last: bool) -> Step[ReshardReport]:
    cursor = {"report": asdict(report), "at": at, "done": done}
    return Step(done, done if last else None, 0, cursor, report, last)
