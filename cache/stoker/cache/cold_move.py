"""Moving a slot without its entries, where servers cannot move it at once, without I/O (rule 6).

To move it key by key, as those servers do, would leave its shards on two nodes, and answer most of what we ask with
TRYAGAIN. So its entries are unlinked, and the target begins cold. But not before the source has heard, over the
cluster's bus, that it has lost the slot: until then it goes on answering. So before the target takes the slot it is
given control records that *expect* it, as in a `hand_over`: who meets one waits for a moment. When the source says that
it has heard, they are taken away, and whoever comes next begins a record. So not both nodes answer, however long this
process is held up between two steps; and if it dies, whoever waits begins after a while, as after a hand-over.

The source is not told: it believes that only when it is empty, which takes a script, and Valkey dies of SETSLOT in a
script if it has replicas. `rebalance` says which slots, and settles the records afterwards, whatever has happened.
"""

from functools import partial
from typing import NamedTuple

from stoker.cache import hand_over, scripts
from stoker.cache.bans import EXPECTED
from stoker.cache.cluster import PATIENCE_S
from stoker.cache.errors import CacheUnavailable
from stoker.cache.hand_over import LOOK_AT_THE_END_S, HandOver, Move, Outcome, on
from stoker.cache.node_link import Spread
from stoker.cache.programs import Sleep
from stoker.cache.wire import Call, Command, Operation, once

PAGE = 500
"""Keys unlinked in one round trip."""
BETWEEN_PAGES_S = 0.005
LOOKS = round(PATIENCE_S / LOOK_AT_THE_END_S)
"""At the source: after that nobody waits for it any more."""
Records = dict[bytes, bytes]
"""Names of control records, and how they read."""


class Page(NamedTuple):
    """What was found in a slot: how many keys, those that are not of its shards, and the control records."""

    keys: int
    strangers: list[bytes]
    records: Records


def cold_move(spread: Spread, move: Move) -> HandOver:
    """Move one slot, whose shards begin cold; `settle` what has come of it.

    Raises:
        CacheUnavailable: A node has not answered; where the slot is must be looked at anew.
    """
    yield hand_over.known(spread, move.shards)
    server = yield on(move.target, hand_over.server_of)
    source_id = yield on(move.source, _own_id)
    for _ in range((yield on(move.source, partial(_most_pages, move)))):
        page: Page = yield on(move.source, partial(_unlink, spread, move))
        if page.strangers:
            name = page.strangers[0].decode(errors="replace")
            return Outcome(False, True, f"it holds keys of others, such as {name!r}")
        if page.keys < PAGE:
            break
        yield None
        yield Sleep(BETWEEN_PAGES_S)
    else:
        return Outcome(False, True, "keys are stored as fast as they are unlinked; try again")
    if len(page.records) < len(move.shards):
        return Outcome(False, False, "its control record keeps changing; try again")
    awaited = {name: expecting(raw, server) for name, raw in page.records.items()}
    if problem := (yield on(move.target, partial(_take, move, source_id, awaited))):
        return Outcome(False, False, problem)
    for _ in range(LOOKS):
        try:
            heard = yield on(move.source, partial(_has_heard, move))
        except CacheUnavailable as error:
            return Outcome(True, False, error.reason)
        if heard:
            yield on(move.target, partial(_let_begin, spread, move, awaited))
            return Outcome(True, False, "these servers move no entries along")
        yield None
        yield Sleep(LOOK_AT_THE_END_S)
    return Outcome(True, False, "the source does not say that it has heard")


def _most_pages(move: Move) -> Operation[int]:
    """For what is in the slot, and as much again that is stored meanwhile."""
    return 2 + 2 * int((yield from once(("CLUSTER", "COUNTKEYSINSLOT", move.slot))).reply()) // PAGE


def _own_id() -> Operation[str]:
    return str((yield from once(("CLUSTER", "MYID"))).reply().decode())


def _unlink(spread: Spread, move: Move) -> Operation[Page]:
    """Unlink a page of entries and leases, unless there are keys of others."""
    shards = [spread.shards[n].keys for n in move.shards]
    gets = [("GET", keys.ctl) for keys in shards]
    answer = yield (*gets, ("CLUSTER", "GETKEYSINSLOT", move.slot, PAGE))
    found = {keys.ctl: answer.reply(i) for i, keys in enumerate(shards)}
    names = answer.reply()
    own = tuple(keys.tag.encode() for keys in shards)
    strangers = [name for name in names if not name.startswith(own)]
    control = {name for keys in shards for name in keys.control}
    doomed = [name for name in names if name not in control]
    if doomed and not strangers:
        (yield (("UNLINK", *doomed),)).reply()
    return Page(len(names), strangers, {name: raw for name, raw in found.items() if raw is not None})


def expecting(raw: bytes, server: bytes) -> bytes:
    """The record, if nobody answered for it and this server was about to. Apart so that tests can take it away."""
    return raw.rpartition(b":")[0] + b":" + EXPECTED + server


def _take(move: Move, source_id: str, awaited: Records) -> Operation[str]:
    """Have the target take the slot, once it has the records; says what went wrong.

    It counts as newer, as it was to be imported. What was seen to work is done again in the same message, or others
    might have changed it before the slot is taken. Records that stay where the slot does not come hurt nobody.
    """
    ready: list[Command] = [("CLUSTER", "SETSLOT", move.slot, "IMPORTING", source_id)]
    for name, raw in awaited.items():
        ready += [("ASKING",), ("SET", name, raw)]
    for commands in (ready, [*ready, ("CLUSTER", "SETSLOT", move.slot, "NODE", move.target_id)]):
        answer = yield tuple(commands)
        problems = [str(reply) for reply in answer.replies if isinstance(reply, Exception)]
        if problems:
            yield (("CLUSTER", "SETSLOT", move.slot, "STABLE"),)
            return "; ".join(dict.fromkeys(problems))
    return ""


def _has_heard(move: Move) -> Operation[bool]:
    """Whether the node knows that the target has the slot."""
    for first, last, primary, *_ in (yield from once(("CLUSTER", "SLOTS"))).reply():
        if int(first) <= move.slot <= int(last):
            return bool(primary[2].decode() == move.target_id)
    return False


def _let_begin(spread: Spread, move: Move, awaited: Records) -> Operation[None]:
    """Take the records away that nobody has replaced yet, so that nobody waits any longer."""
    digest = spread.shards[move.shards[0]].digest
    (yield from once(Call(scripts.RELEASE, tuple(awaited), (digest, *awaited.values())))).reply()
