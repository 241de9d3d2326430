"""Handing a slot over to another node, so that its shards keep their hits there, without I/O (rule 6).

Valkey 9 moves a slot at once: the source waits with writes, the target takes over, the source learns of it. To be
believed at the target a control record must accept its server process. So first the record *expects* that process,
which is no acceptance yet: who meets such a record at the target waits for a moment. Then the slot is moved. Then,
if the source itself has said in time that it gave the slot away, this process *vouches* for the target. Both are sure
then: nothing was written at the source that did not come along, and the source answers no reader any more.

In every other case nobody vouches, and the shard begins cold where it is: a target that took over late, when the
source had gone on with writes; one that got the slot by another route, with older data; a process that died before it
vouched. After a hand-over, done or not, the record is *narrowed* to the server that has it; not while the slot is
still on its way, for a target that is not expected begins cold at once, though the source may not have heard of it.

`rebalance` says which slots, and in which order. Source: Valkey's `cluster_migrateslots.c`, by which a source waits
with writes for at least `PAUSE_S` after it has let the target take over, and then goes on whatever has become of it.
"""

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from stoker.cache import scripts
from stoker.cache.bans import Control
from stoker.cache.clock import clock
from stoker.cache.cluster_map import part_of, slot_of
from stoker.cache.dialogue import UNKNOWN_SERVER
from stoker.cache.errors import CacheUnavailable, ConfigError
from stoker.cache.node_link import Spread
from stoker.cache.parts import Node, Part, at_once
from stoker.cache.programs import Effect, Sleep
from stoker.cache.protocol import Shard
from stoker.cache.shard_weights import facts, text
from stoker.cache.wire import Answer, Call, Operation, once, refusal

PAUSE_S = 2.0
"""How long the source waits with writes once it has let the target take over, at least (CLUSTER_OPERATION_TIMEOUT)."""
PROMPT_S = 0.75 * PAUSE_S
"""Within this the source must be heard to have given the slot away; the rest is for clocks that differ."""
LONGEST_S = {"waiting-to-pause": 60.0, "failover-paused": PAUSE_S / 2}
"""How long a move may be in these states; then it is given up. In the first the target cannot keep up with what is
written; in the second the source waits with writes, and its clients would fail."""
TRIES = 3
"""Of narrowing a record that others change."""
LOOK_S, LOOK_AT_THE_END_S = 0.05, 0.01
"""Between two looks at a migration; the second, while the target may take over any moment, is what clients wait."""
UNKNOWN_COMMAND = "nknown subcommand"
"""Of what a server answers that does not move slots at once."""
_RUNNING = "connecting", "sending-auth-command", "reading-auth-response"
_BEFORE_GRANT = frozenset(
    (
        *_RUNNING,
        "sending-establish-command",
        "reading-establish-response",
        "waiting-to-snapshot",
        "snapshotting",
        "replicating",
        "waiting-to-pause",
        "failover-paused",
    )
)
_ENDED = frozenset(("success", "failed", "cancelled"))
_EARLY = frozenset((*_RUNNING, "sending-establish-command", "reading-establish-response"))


class Move(NamedTuple):
    """A slot, the shards in it, and the nodes by address and by the cluster's id."""

    slot: int
    shards: tuple[int, ...]
    source: Node
    target: Node
    target_id: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a slot.

    Attributes:
        moved: Whether the target has it.
        warm: Whether all of its shards kept their hits.
        reason: Why not, for people.
    """

    moved: bool
    warm: bool
    reason: str = ""


class _Begun(NamedTuple):
    """A migration under way: its name and source process, since when the target may have been let in, and what of
    each shard is handed over."""

    name: str
    process: bytes
    since: float
    handed: tuple[tuple[int, str, str], ...]  # shard, incarnation, generation


HandOver = Generator[Effect | None, Any, Outcome]
"""A program that also yields None, several times a second: its caller may say that it goes on, or close it."""


def hand_over(spread: Spread, move: Move) -> HandOver:
    """Move one slot; `settle` what has come of it, whatever that is.

    Raises:
        CacheUnavailable: A node has not answered; where the slot is must be looked at anew.
        ConfigError: Servers cannot be told apart, so that a target would answer for what nobody vouches for.
    """
    yield known(spread, move.shards)
    target_server = yield on(move.target, server_of)
    if target_server == UNKNOWN_SERVER:
        raise ConfigError(
            "boot_fence",
            "off",
            "slots are handed over only where server processes are told apart: set it to 'run_id', "
            "and let the cache's user run INFO",
        )
    begun = yield on(move.source, partial(_begin, spread, move, target_server))
    if isinstance(begun, str):
        return Outcome(False, True, begun)
    since, last, entered_at = begun.since, "", 0.0
    while True:
        looked_at = clock()
        process, state, message = yield on(move.source, partial(_look, begun.name))
        if process != begun.process:
            return Outcome(False, False, f"{move.source} was started anew meanwhile")
        if state == "success":
            prompt = in_time(clock() - since)
            warm = prompt and (yield on(move.target, partial(_vouch, spread, begun.handed)))
            return Outcome(True, warm, "" if warm else "nobody could vouch for all that came along")
        if state in _ENDED or not state:
            return Outcome(False, True, message or state or "the node knows nothing of it any more")
        if state in _BEFORE_GRANT:
            since = looked_at
        if state != last:
            last, entered_at = state, looked_at
        if looked_at - entered_at > LONGEST_S.get(state, math.inf):
            yield cancel(move)
        yield None
        yield Sleep(LOOK_S if state in _EARLY else LOOK_AT_THE_END_S)


def in_time(seconds: float) -> bool:
    """Whether so long after the last look at which the target was surely not let in, the source still waited with
    writes. Apart so that tests can take it away."""
    return seconds < PROMPT_S


def known(spread: Spread, shards: Iterable[int]) -> Operation[list[Any]]:
    """Know the control records, and see that they are good where they are."""
    return at_once([part_of(spread.shards[n], spread.shards[n].catch_up) for n in shards])


def settle(spread: Spread, shards: Iterable[int]) -> Operation[int]:
    """See that the records accept their owners, and nobody else but a target to which the slot is on its way.

    Returns:
        Of how many shards the owner alone is named.

    Raises:
        CacheUnavailable: A node has not answered.
    """
    numbers = list(shards)
    yield from known(spread, numbers)
    done = yield from at_once(
        [part_of(spread.shards[n], partial(_narrow, spread.shards[n])) for n in numbers]
    )
    return sum(done)


def cancel(move: Move) -> Operation[bool]:
    """End the migration, if it is under way. Cancels no other, unless the same node has several."""

    def cancelled() -> Operation[bool]:
        entries = _exports((yield (("CLUSTER", "GETSLOTMIGRATIONS"),)))
        if not any(_is(entry, move) and entry["state"] not in _ENDED for entry in entries):
            return False
        (yield (("CLUSTER", "CANCELSLOTMIGRATIONS"),)).reply()
        return True

    return on(move.source, cancelled)


def leaving(move: Move) -> Operation[bool]:
    """Whether the source is still giving the slot away."""
    return on(move.source, partial(under_way, move.slot))


def can_move(node: Node) -> Operation[bool]:
    """Whether the node moves slots at once (Valkey 9)."""

    def asked() -> Operation[bool]:
        answer = yield from once(("CLUSTER", "GETSLOTMIGRATIONS"))
        if UNKNOWN_COMMAND in str(answer.replies[0]):
            return False
        answer.reply()
        return True

    return on(node, asked)


def on(node: Node, begin: Callable[[], Operation[Any]]) -> Operation[Any]:
    """An operation at that node, whoever has its slots."""
    [result] = yield from at_once((Part(node, begin, node),))
    return result


def server_of() -> Operation[bytes]:
    """What the boot fence calls the server process."""
    return (yield from once(("PING",))).server


def _begin(spread: Spread, move: Move, target_server: bytes) -> Operation[_Begun | str]:
    """Have the records expect the target, and the slot moved; on one connection, hence both by one server process.

    What is moved is then what this process has, not what a replica knew that took its place.
    """
    since = clock()
    answer = yield (("CLUSTER", "GETSLOTMIGRATIONS"),)
    under_way = [
        entry for entry in _exports(answer) if _has(entry, move.slot) and entry["state"] not in _ENDED
    ]
    if any(not _is(entry, move) for entry in under_way):
        return "somebody else is moving it"
    expecting = [expect(spread.shards[number], target_server) for number in move.shards]
    answer = yield tuple(expecting)
    handed = _handed(move, answer.replies)
    if not under_way:
        # Anew: until now nothing has told another process, which settles, that the slot is on its way. In the same
        # message, or the slot might have gone before.
        answer = yield (
            ("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", move.slot, move.slot, "NODE", move.target_id),
            *expecting,
            ("CLUSTER", "GETSLOTMIGRATIONS"),
        )
        begun, *expected, _ = answer.replies
        if isinstance(begun, Exception):
            return str(begun)
        handed = _handed(move, expected)
        under_way = [entry for entry in _exports(answer) if _is(entry, move)]
    if not under_way:
        return "the node does not say that it has begun"
    entry = under_way[0]
    since = since if entry["state"] in _BEFORE_GRANT else -math.inf
    return _Begun(entry["name"], answer.process, since, handed)


def expect(shard: Shard, server: bytes) -> Call:
    """Name the server that is to take over."""
    return Call(scripts.EXPECT, (shard.keys.ctl,), (shard.digest, server))


def _handed(move: Move, replies: Sequence[Any]) -> tuple[tuple[int, str, str], ...]:
    """What of each shard is handed over, now that its record expects that server."""
    handed = []
    for number, raw in zip(move.shards, replies, strict=True):
        if isinstance(raw, Exception):
            raise refusal(raw)
        control = Control.parse(raw or None)
        if control is None:
            raise CacheUnavailable("redis", f"the control record of shard {number} keeps changing; try again")
        handed.append((number, control.incarnation.hex(), str(control.generation)))
    return tuple(handed)


def _look(name: str) -> Operation[tuple[bytes, str, str]]:
    answer = yield (("CLUSTER", "GETSLOTMIGRATIONS"),)
    found = [entry for entry in _exports(answer) if entry["name"] == name]
    return (answer.process, found[0]["state"], found[0]["message"]) if found else (answer.process, "", "")


def _vouch(spread: Spread, handed: Sequence[tuple[int, str, str]]) -> Operation[bool]:
    calls = []
    for number, incarnation, generation in handed:
        shard = spread.shards[number]
        calls.append(Call(scripts.VOUCH, (shard.keys.ctl,), (shard.digest, incarnation, generation)))
    answer = yield tuple(calls)
    return all(reply == 1 for reply in answer.replies)


def _narrow(shard: Shard) -> Operation[int]:
    """Unless the slot is on its way; anew if another has changed the record since it was looked at."""
    for _ in range(TRIES):
        generation = str(shard.view.control.generation)
        if (yield from under_way(slot_of(shard))):
            return 0
        call = Call(scripts.NARROW, (shard.keys.ctl,), (shard.digest, generation))
        if (yield (call,)).reply() == 1:
            return 1
        yield from shard.catch_up()
    return 0


def under_way(slot: int) -> Operation[bool]:
    """Whether the node is giving the slot away. Apart so that tests can take it away."""
    answer = yield (("CLUSTER", "GETSLOTMIGRATIONS"),)
    if UNKNOWN_COMMAND in str(answer.replies[0]):
        return False
    return any(_has(entry, slot) and entry["state"] not in _ENDED for entry in _exports(answer))


def _exports(answer: Answer) -> list[dict[str, str]]:
    """What the node says of slots that it gives away, newest first; as pairs or as maps."""
    found = []
    for raw in answer.reply():
        entry = {name: text(value) for name, value in facts(raw).items()}
        if entry.get("operation") == "EXPORT":
            found.append(entry)
    return found


def _has(entry: dict[str, str], slot: int) -> bool:
    ranges = (part.partition("-") for part in entry["slot_ranges"].split())
    return any(int(first) <= slot <= int(last or first) for first, _, last in ranges)


def _is(entry: dict[str, str], move: Move) -> bool:
    return entry["slot_ranges"] == f"{move.slot}-{move.slot}" and entry["target_node"] == move.target_id
