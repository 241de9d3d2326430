"""Moves that do not get on are given up. Played without servers: what they answer is said here."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from stoker.cache import cold_move, hand_over, rebalance
from stoker.cache.balance import RebalancePlan, SlotMove
from stoker.cache.hand_over import LONGEST_S, Move
from stoker.cache.programs import Sleep

MOVE = Move(7, (0,), "source:1", "target:1", "")
SPREAD = cast("Any", SimpleNamespace(shards=[None]))


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in place of the clock; what goes to a node is shown as (node, what)."""
    time = [100.0]
    for module in (hand_over, cold_move):
        monkeypatch.setattr(module, "clock", lambda: time[0])
        monkeypatch.setattr(module, "on", lambda node, begin: (node, begin))
    monkeypatch.setattr(hand_over, "known", lambda *_: "known")
    monkeypatch.setattr(hand_over, "cancel", lambda _: "cancel")
    return time


def _looks(state: str, now: list[float], step: float) -> Iterator[str]:
    """What a hand-over does after each look at a migration that stays in this state."""
    program = cast("Any", hand_over.hand_over(SPREAD, MOVE))
    assert next(program) == "known"
    program.send(None)
    program.send(b"the target's server")
    program.send(hand_over._Begun("a migration", b"process", now[0], ()))
    while True:
        effect = program.send((b"process", state, ""))
        yield "cancelled" if effect == "cancel" else "goes on"
        if effect == "cancel":
            assert next(program) is None
        assert isinstance(next(program), Sleep)
        now[0] += step
        next(program)


@pytest.mark.parametrize("state", ["waiting-to-pause", "failover-paused"])
def test_a_hand_over_that_stays_for_too_long_where_it_is_is_cancelled(state: str, now: list[float]) -> None:
    step = LONGEST_S[state] / 10
    found = [what for what, _ in zip(_looks(state, now, step), range(13), strict=False)]
    assert found[:11] == ["goes on"] * 11
    assert found[12] == "cancelled"


def test_a_copy_may_take_its_time(now: list[float]) -> None:
    looks = _looks("replicating", now, 600)
    assert [next(looks) for _ in range(20)] == ["goes on"] * 20


@pytest.mark.usefixtures("now")
def test_a_cold_move_of_a_slot_that_stays_full_gives_up() -> None:
    program = cast("Any", cold_move.cold_move(SPREAD, MOVE))
    assert next(program) == "known"
    program.send(None)
    program.send(3)  # pages, at most
    for page in range(3):
        if page:
            next(program)
        assert program.send((cold_move.PAGE, [])) is None
        assert isinstance(next(program), Sleep)
    with pytest.raises(StopIteration) as ended:
        next(program)
    outcome = ended.value.value
    assert not outcome.moved
    assert "as fast as they are unlinked" in outcome.reason


@pytest.mark.parametrize(
    ("able", "warm"), [((True, True), True), ((True, False), False), ((False, True), False)]
)
def test_slots_are_handed_over_only_if_every_source_can(
    able: tuple[bool, bool], warm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hand_over, "settle", lambda *_: "settle")
    monkeypatch.setattr(hand_over, "can_move", lambda node: node)
    monkeypatch.setattr(rebalance, "placed", lambda _: "placed")
    program = cast("Any", rebalance.rebalance_steps(SPREAD, "keys", {}, None))
    assert next(program) == "settle"
    program.send(1)
    answers = {"old:1": able[0], "new:1": able[1]}
    moves = tuple(SlotMove(slot, (slot,), source, "target:1", 0, 0) for slot, source in enumerate(answers))
    step = program.send(RebalancePlan("keys", moves, (), (), 0.0))
    while isinstance(step, str):
        step = program.send(answers[step])
    assert step.cursor["warm"] is warm
