"""Bringing the nodes of a cluster to their shares: a plan, then slots handed over one at a time, gently.

What should move is `balance`'s business; how a slot moves is `hand_over`'s, or `cold_move`'s on older servers. This
may be killed anywhere and run twice: each move looks first at who has the slot now, and the records are settled before
the first and after each.
"""

import logging
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from stoker.cache import balance, cold_move, hand_over, shard_weights
from stoker.cache.balance import RebalancePlan, SlotMove
from stoker.cache.cluster_map import slot_of
from stoker.cache.errors import CacheUnavailable, ConfigError
from stoker.cache.hand_over import Move, Outcome
from stoker.cache.node_link import Spread
from stoker.cache.parts import Displaced, everywhere
from stoker.cache.programs import Effect, Program, Sleep, Steps
from stoker.cache.shard_weights import Census
from stoker.cache.steps import Step
from stoker.cache.wire import Operation, once

log = logging.getLogger(__name__)

SIGN_EVERY_S = 1.0
"""While one slot takes long."""
LEAST_REST_S, LONGEST_REST_S = 0.05, 2.0
"""After a slot as long as it took, within these: writes on its source waited meanwhile."""
SLOWER, SLOWER_BY_S = 5.0, 0.02
"""Answers that take so many times as long as at the beginning, and so many seconds more, are a reason to wait."""
LONGEST_WAIT_S = 30.0
LONGEST_CANCEL_S = 5.0
"""A source that is told to give a move up first ends the process that writes what is in the slot."""
TRIES = 2


@dataclass(frozen=True, slots=True)
class RebalanceReport:
    """What was moved.

    Attributes:
        planned: Slots to be moved.
        moved: Slots that are where they should be.
        cold: Of these, slots whose shards began cold there; those not counted that an earlier run left on their way.
        failed: Slots that stayed.
        keys: In the slots that were moved, when the plan was made.
        bytes: Likewise, by a sample.
        waited_s: Seconds of rest because nodes answered slowly.
        before: Share of each node before, of what was weighed, 0 to 1.
        after: The same afterwards; empty until it is done.
        reason: Why slots stayed or began cold; the last one.
        complete: Whether all moves were tried.
    """

    planned: int = 0
    moved: int = 0
    cold: int = 0
    failed: int = 0
    keys: int = 0
    bytes: int = 0
    waited_s: float = 0.0
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    complete: bool = False


Counted = Generator[Effect | Step[RebalanceReport], Any, RebalanceReport]


def plan(spread: Spread, by: str, weights: Mapping[str, float]) -> Operation[RebalancePlan]:
    """What would move. Raises as `balance.plan` and `shard_weights.slots`."""
    known: Census = yield from shard_weights.census()
    slots = yield from shard_weights.slots(spread, known.owners, by)
    return balance.plan(by, known.members, slots, weights)


def rebalance_steps(
    spread: Spread, by: str, weights: Mapping[str, float], cursor: dict[str, Any] | None
) -> Steps[RebalanceReport]:
    """Plan and move, yielding after each slot and while one takes long; `cursor` goes on with an earlier run's plan.

    Raises:
        ConfigError: Nothing can be planned so.
        CacheUnavailable: A node did not answer; give the last step's cursor to go on later.
    """
    yield hand_over.settle(spread, range(len(spread.shards)))  # what a run that is gone has left
    if cursor is not None and cursor["placed"] != placed(spread):
        cursor = None  # the keys live in other shards since
    if cursor is None:
        planned = yield plan(spread, by, weights)
        before = {one.node: round(one.before, 4) for one in planned.nodes}
        report = RebalanceReport(planned=len(planned.moves), before=before)
        warm = True
        for source in {move.source for move in planned.moves}:
            warm = warm and (yield hand_over.can_move(source))
        moves = [asdict(one) for one in planned.moves]
        cursor = {
            "by": by,
            "warm": warm,
            "at": 0,
            "moves": moves,
            "report": asdict(report),
            "placed": placed(spread),
        }
        yield _step(cursor, report)
    report = RebalanceReport(**cursor["report"])
    quickest = yield from _slowest_answer()
    while cursor["at"] < len(cursor["moves"]):
        report, quickest = yield from _calm(report, quickest, cursor)
        began = time.monotonic()
        report = yield from _move(spread, SlotMove(**cursor["moves"][cursor["at"]]), report, cursor)
        cursor = {**cursor, "at": cursor["at"] + 1, "report": asdict(report)}
        yield _step(cursor, report)
        yield Sleep(min(max(time.monotonic() - began, LEAST_REST_S), LONGEST_REST_S))
    try:
        after = yield plan(spread, cursor["by"], {})
        report = replace(report, after={one.node: round(one.before, 4) for one in after.nodes})
    except ConfigError as error:  # a new node may not count load
        log.info("moved, but what the nodes have now cannot be weighed: %s", error)
    report = replace(report, complete=True)
    yield _step({**cursor, "report": asdict(report)}, report, last=True)


def stop(spread: Spread, cursor: dict[str, Any]) -> Program[None]:
    """Cancel the move that was under way at this cursor, and settle its shards. Raises CacheUnavailable."""
    if cursor["at"] >= len(cursor["moves"]):
        return
    planned = SlotMove(**cursor["moves"][cursor["at"]])
    if cursor["warm"] and (move := _now(spread, planned, (yield shard_weights.census()))) is not None:
        yield hand_over.cancel(move)
        given_up_at = time.monotonic() + LONGEST_CANCEL_S
        while (yield hand_over.leaving(move)) and time.monotonic() < given_up_at:
            yield Sleep(hand_over.LOOK_S)
    yield hand_over.settle(spread, _shards_in(spread, planned.slot))


def placed(spread: Spread) -> str:
    """Which map the shards are of."""
    return spread.shards[0].digest.decode()


def _shards_in(spread: Spread, slot: int) -> tuple[int, ...]:
    return tuple(number for number, shard in enumerate(spread.shards) if slot_of(shard) == slot)


def _now(spread: Spread, planned: SlotMove, known: Census) -> Move | None:
    """The move as it is to be made now: whoever had the slot may have been replaced. None if its target is no more."""
    target_id = known.id_of(planned.target)
    source = known.owners.get(planned.slot)
    if target_id is None or source is None:
        return None
    shards = _shards_in(spread, planned.slot)
    return Move(planned.slot, shards, source, planned.target, target_id)


def _move(spread: Spread, planned: SlotMove, report: RebalanceReport, cursor: dict[str, Any]) -> Counted:
    """One slot, tried again if it stays; and what has become of it."""
    outcome = Outcome(False, True, "")
    for attempt in range(TRIES):
        if attempt:
            yield Sleep(LONGEST_REST_S)
        move = _now(spread, planned, (yield shard_weights.census()))
        if move is None:
            outcome = Outcome(False, True, f"{planned.target} is no primary any more")
            break
        if move.source == move.target:  # an earlier run has moved it, or this one, for which nobody vouched
            yield hand_over.settle(spread, move.shards)
            outcome = Outcome(True, not attempt, outcome.reason)
            break
        try:
            how = hand_over.hand_over if cursor["warm"] else cold_move.cold_move
            outcome = yield from _reporting(how(spread, move), report, cursor)
        except Displaced as news:  # by whom this worker follows, or by somebody else, since it looked
            outcome = Outcome(False, True, news.reason)
        except CacheUnavailable:
            yield _settled_if_it_can_be(spread, move.shards)
            raise
        yield hand_over.settle(spread, move.shards)
        if outcome.moved:
            break
    return replace(
        report,
        moved=report.moved + outcome.moved,
        cold=report.cold + (outcome.moved and not outcome.warm),
        failed=report.failed + (not outcome.moved),
        keys=report.keys + planned.keys * outcome.moved,
        bytes=report.bytes + planned.bytes * outcome.moved,
        reason=f"slot {planned.slot}: {outcome.reason}" if outcome.reason else report.reason,
    )


def _settled_if_it_can_be(spread: Spread, shards: Sequence[int]) -> Operation[None]:
    try:
        yield from hand_over.settle(spread, shards)
    except CacheUnavailable as error:  # nothing rests on it; whoever goes on does it first
        log.warning("control records of shards %s still expect another server: %s", list(shards), error)


def _reporting(
    program: hand_over.HandOver, report: RebalanceReport, cursor: dict[str, Any]
) -> Generator[Effect | Step[RebalanceReport], Any, Outcome]:
    """Go on with the hand-over, and say now and then that it does."""
    said = time.monotonic()
    try:
        effect = next(program)
        while True:
            answer = None
            if effect is not None:
                try:
                    answer = yield effect
                except Exception as error:
                    effect = program.throw(error)
                    continue
            elif time.monotonic() - said > SIGN_EVERY_S:
                said = time.monotonic()
                yield _step(cursor, report)
            effect = program.send(answer)
    except StopIteration as ended:
        outcome: Outcome = ended.value
        return outcome


def _slowest_answer() -> Generator[Effect, Any, float]:
    """Seconds that the slowest node took to answer, at the quicker of two tries."""
    took = []
    for _ in range(2):
        began = time.monotonic()
        yield everywhere(lambda _node, _layout: once(("PING",)))
        took.append(time.monotonic() - began)
    return min(took)


def _calm(
    report: RebalanceReport, quickest: float, cursor: dict[str, Any]
) -> Generator[Effect | Step[RebalanceReport], Any, tuple[RebalanceReport, float]]:
    """Wait until the nodes answer about as quickly as they did, but not for ever."""
    waited = 0.0
    while True:
        seconds = yield from _slowest_answer()
        quickest = min(quickest, seconds)
        if waited >= LONGEST_WAIT_S or seconds <= max(SLOWER * quickest, quickest + SLOWER_BY_S):
            return replace(report, waited_s=round(report.waited_s + waited, 3)), quickest
        yield Sleep(SIGN_EVERY_S)
        waited += SIGN_EVERY_S
        yield _step(cursor, report)


def _step(cursor: dict[str, Any], report: RebalanceReport, *, last: bool = False) -> Step[RebalanceReport]:
    return Step(report.moved + report.failed, report.planned, report.failed, cursor, report, last)
