"""Moving a slot without its entries, where servers cannot move it at once, without I/O (rule 6).

To move it key by key, as those servers do, would leave its shards on two nodes, and answer most of what we ask with
TRYAGAIN. So its entries are unlinked; its control record is *frozen*: it accepts nobody, so who meets it waits for a
moment; and the target is told that the slot is its own. There the shards have no records, hence begin cold. Then the
source is told, and forgets what is left. Until then it serves nobody, so nobody can be served there what was
invalidated at the target.

`rebalance` says which slots, and settles the records afterwards, whatever has happened: as with `hand_over`.
"""

import logging
from collections.abc import Sequence
from functools import partial

from stoker.cache import hand_over, scripts
from stoker.cache.clock import clock
from stoker.cache.hand_over import HandOver, Move, Outcome, on
from stoker.cache.node_link import Spread
from stoker.cache.parts import Displaced
from stoker.cache.programs import Sleep
from stoker.cache.wire import Call, Operation, once

log = logging.getLogger(__name__)

PAGE = 500
"""Keys unlinked in one round trip."""
BETWEEN_PAGES_S = 0.005
FROZEN_S = 1.0
"""Within this of the freezing the target must be told: who waits for longer has the source begin anew."""


def cold_move(spread: Spread, move: Move) -> HandOver:
    """Move one slot, whose shards begin cold; `settle` what has come of it.

    Raises:
        CacheUnavailable: A node has not answered; where the slot is must be looked at anew.
    """
    yield hand_over.known(spread, move.shards)
    for _ in range((yield on(move.source, partial(_most_pages, move)))):
        left, strangers = yield on(move.source, partial(_unlink, spread, move))
        if strangers:
            return Outcome(False, True, _why_not(strangers))
        if left < PAGE:
            break
        yield None
        yield Sleep(BETWEEN_PAGES_S)
    else:
        return Outcome(False, True, "keys are stored as fast as they are unlinked; try again")
    server = yield on(move.target, hand_over.server_of)
    source_id = yield on(move.source, _own_id)
    frozen_at = clock()
    problem, frozen = yield on(move.source, partial(_freeze, spread, move, server))
    if problem:
        return Outcome(False, False, problem)
    if clock() - frozen_at > FROZEN_S:
        return Outcome(False, False, "the source answered too slowly")
    if problem := (yield on(move.target, partial(_take, move, source_id))):
        return Outcome(False, False, problem)
    refused = ""
    try:
        refused = yield on(move.source, partial(give, spread, move, frozen))
    except Displaced as heard:
        log.debug("%s has heard already: %s", move.source, heard)
    return Outcome(True, False, refused or "these servers move no entries along")


def _most_pages(move: Move) -> Operation[int]:
    """For what is in the slot, and as much again that is stored meanwhile."""
    return 2 + 2 * int((yield from once(("CLUSTER", "COUNTKEYSINSLOT", move.slot))).reply()) // PAGE


def _own_id() -> Operation[str]:
    return str((yield from once(("CLUSTER", "MYID"))).reply().decode())


def _unlink(spread: Spread, move: Move) -> Operation[tuple[int, list[bytes]]]:
    """Unlink a page of entries and leases. Returns how many keys there were, and those that are not of these shards."""
    names = (yield from once(("CLUSTER", "GETKEYSINSLOT", move.slot, PAGE))).reply()
    strangers = [name for name in names if not name.startswith(_tags(spread, move))]
    control = {name for n in move.shards for name in spread.shards[n].keys.control}
    doomed = [name for name in names if name not in control]
    if doomed and not strangers:
        (yield (("UNLINK", *doomed),)).reply()
    return len(names), strangers


def _why_not(strangers: Sequence[bytes]) -> str:
    return f"it holds keys of others, such as {strangers[0].decode(errors='replace')!r}"


def _freeze(spread: Spread, move: Move, server: bytes) -> Operation[tuple[str, bytes]]:
    """Freeze the records, and unlink what was stored meanwhile; says what went wrong, and how the first one reads."""
    for number in move.shards:
        if not (yield from freeze(spread, number, server)):
            return "its control record keeps changing; try again", b""
    frozen = (yield from once(("GET", spread.shards[move.shards[0]].keys.ctl))).reply()
    _, strangers = yield from _unlink(spread, move)
    return _why_not(strangers) if strangers else "", frozen or b""


def freeze(spread: Spread, number: int, server: bytes) -> Operation[bool]:
    """Let nobody answer for the shard. Apart so that tests can take it away."""
    shard = spread.shards[number]
    call = Call(scripts.FREEZE, (shard.keys.ctl,), (shard.digest, server))
    return bool((yield from once(call)).reply())


def give(spread: Spread, move: Move, frozen: bytes) -> Operation[str]:
    """Have the source know at once, instead of hearing it over the bus; says why it does not.

    Not if the slot has left it and come back: `frozen` is how the first record read.
    """
    first, tags = spread.shards[move.shards[0]], _tags(spread, move)
    call = Call(scripts.GIVE, (first.keys.ctl,), (first.digest, move.slot, move.target_id, frozen, *tags))
    [reply] = (yield from once(call)).replies
    return str(reply) if isinstance(reply, Exception) else ""


def _tags(spread: Spread, move: Move) -> tuple[bytes, ...]:
    return tuple(spread.shards[n].keys.tag.encode() for n in move.shards)


def _take(move: Move, source_id: str) -> Operation[str]:
    """Have the target take the slot; says what went wrong. It counts as newer, as it was to be imported."""
    answer = yield (
        ("CLUSTER", "SETSLOT", move.slot, "IMPORTING", source_id),
        ("CLUSTER", "SETSLOT", move.slot, "NODE", move.target_id),
    )
    problems = [str(reply) for reply in answer.replies if isinstance(reply, Exception)]
    if problems:
        yield (("CLUSTER", "SETSLOT", move.slot, "STABLE"),)
    return "; ".join(problems)
