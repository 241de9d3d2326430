"""What the checker can take away from the product, to show that it would notice.

Each guard is removed in the process that calls its function, by putting something weaker in the place of a part of the
protocol. A removal that no longer finds what it removes fails: it must be fitted to the code, not forgotten.
"""

import asyncio
import json
import math
import random
import time
from collections.abc import Callable, Sequence
from inspect import isfunction, signature
from typing import Any

from msgspec.structs import replace

from stoker.cache import PlacementMismatch, control, dialogue, flight, scripts, sweep
from stoker.cache.backends import Write
from stoker.cache.backends.redis import RedisBackend
from stoker.cache.copies import Tracked
from stoker.cache.core import Core
from stoker.cache.near import Near
from stoker.cache.near_channel import Conversation
from stoker.cache.near_stream import Stream
from stoker.cache.pipe import Pipe
from stoker.cache.protocol import Lease, Shard
from stoker.cache.scripts import Script
from stoker.cache.shards import Agreement, Resharded, fingerprint, parsed
from stoker.cache.transport import Connection
from stoker.cache.wire import Answer, Exchange, Operation

_DELAYED = 0.1
_LONGEST_DELAY_S = 0.01
_LONGEST_LANDING_S = 0.05
_STALLED = 0.04
_LONGEST_STALL_S = 0.6
"""Of the channel of copies; several times their bound."""


def delay_answers(chance: random.Random) -> None:
    """Let some answers arrive late, as on a network: what may overtake them then does."""
    ask, ask_aio = Connection.ask, Pipe.ask

    def delayed(self: Connection, commands: Exchange) -> Answer:
        answer = ask(self, commands)
        time.sleep(_delay(chance))
        return answer

    async def delayed_aio(self: Pipe, commands: Exchange) -> Answer:
        answer = await ask_aio(self, commands)
        await asyncio.sleep(_delay(chance))
        return answer

    _put(Connection, "ask", delayed)
    _put(Pipe, "ask", delayed_aio)
    _stall_channels(chance)


def _stall_channels(chance: random.Random) -> None:
    receive = Conversation.receive

    def stalled(self: Conversation) -> None:
        if chance.random() < _STALLED:
            time.sleep(chance.random() * _LONGEST_STALL_S)
        receive(self)

    _put(Conversation, "receive", stalled)


def _delay(chance: random.Random) -> float:
    return chance.random() * _LONGEST_DELAY_S if chance.random() < _DELAYED else 0.0


def no_lease() -> None:
    """Store a loaded value whoever holds the key's lease, if anybody does."""
    _edit("FILL", "if redis.call('GET', KEYS[3]) ~= ARGV[3] then return 0 end", "")
    _edit("FILL_MANY", "if holders[i] ~= ARGV[3] then return 1 end", "")


def forgotten_writes() -> None:
    """Store what was loaded as a batch, whatever was deleted or set since."""
    _edit("FILL_BATCH", "written[since[i]] = true", "")


def lost_writes() -> None:
    """Store what was loaded as a batch though nobody knows what was deleted since, and give the list up often."""
    _edit("FILL_BATCH", "if since[1] ~= ARGV[3] then return 0 end", "")
    for name in ("DELETE", "SET"):
        _edit(name, "MOST_WRITES = 10000", "MOST_WRITES = 2")


def stamp_after_load() -> None:
    """Stamp a value with the head of the ban log at its fill instead of before its load."""
    fill = RedisBackend.fill

    def late(self: RedisBackend, fills: Sequence[tuple[Lease, Write]]) -> Operation[list[bool]]:
        late_fills = []
        for lease, write in fills:
            view = yield from self.space.shard_of(lease.tenant_id, lease.key).catch_up()
            late_fills.append((replace(lease, stamp=view.stamp), write))
        return (yield from fill(self, late_fills))

    _put(RedisBackend, "fill", late)


def no_closing() -> None:
    """Let fills that began before a sweep go on into what it has passed, and do not wait until they have ended."""
    any_age()
    _edit("CLOSE", "c.closing = mark", "")
    _edit("RETIRE", " or c.closing < mark", "")


def no_second_read() -> None:
    """Judge an answer with a view from which the bans against it have retired."""
    any_age()
    _put(Shard, "retired_under", _always(False))


def any_age() -> None:
    """Retire bans as soon as a sweep is complete: the guards of loads under way must hold without the clock."""
    _put(sweep, "least_mark_age_ms", _always(0))


def no_boot_fence() -> None:
    """Take every server process for the same one."""
    _put(dialogue, "process_of", _always(b"0123456789abcdef"))
    no_regression()


def no_regression() -> None:
    """Believe a control record that is older than what this process knew."""
    _put(Shard, "regressed", _always(False))


def any_rules() -> None:
    """Take every newer control record for one with the rules that this process knows."""
    _put(Shard, "same_rules", lambda _, known, control: known.incarnation == control.incarnation)


def no_sentinel() -> None:
    """Take a ban log for complete that may have been lost and begun again."""
    _put(Shard, "complete", _always(True))
    _put(control, "_rules", _rules_without_sentinel(control._rules))
    _edit("BAN", "if not redis.call('ZSCORE', KEYS[2], sentinel_of(c)) then return 0 end", "")


def _rules_without_sentinel(rules: Callable[..., Any]) -> Callable[..., Any]:
    def parse(members: Sequence[tuple[bytes, float]], head: int) -> Any:
        return rules([member for member in members if not member[0].startswith(b"i|")], head)

    return parse


def missing_is_zero() -> None:
    """Take a missing control record for one with no bans yet, instead of a new incarnation."""
    _edit(
        "FENCE",
        "string.sub(redis.sha1hex(ARGV[5] .. time[1] .. '.' .. time[2]), 1, 16)",
        "'0123456789abcdef'",
    )
    no_regression()


def any_follower() -> None:
    """Give the leader's value to whoever came before it had landed, and let landing take its time."""
    fill = RedisBackend.fill

    def slow(self: RedisBackend, fills: Sequence[tuple[Lease, Write]]) -> Operation[list[bool]]:
        stored = yield from fill(self, fills)
        time.sleep(random.random() * _LONGEST_LANDING_S)
        return stored

    _put(RedisBackend, "fill", slow)
    _put(flight, "joined_in_time", _always(True))


def no_follower_check() -> None:
    """Give the leader's value to followers that know it was invalidated."""
    _put(Shard, "lives", _always(True))


def set_keeps_lease() -> None:
    """Let a load that began before a `set` overwrite it."""
    _edit("SET", "call('DEL', KEYS[3])", "")


def delete_keeps_lease() -> None:
    """Let a load that began before a `delete` bring the value back."""
    _edit("DELETE", "redis.call('UNLINK', KEYS[3])", "")


def no_new_life() -> None:
    """Let a map that was lost come back with the control records that it had."""
    _put(Agreement, "propose", lambda self: self.map.render("00000000"))
    _edit("OPEN", "for i = 2, #KEYS do redis.call('DEL', KEYS[i]) end", "")


def no_new_places() -> None:
    """Go by a map that has changed without asking where keys live now."""
    accept = Agreement.accept

    def accepted(self: Agreement, stored: bytes) -> None:
        try:
            accept(self, stored)
        except (Resharded, PlacementMismatch):
            found = parsed(stored)
            plain = json.dumps(found | {"life": ""}, sort_keys=True, separators=(",", ":")).encode()
            self.ruling = stored, fingerprint(plain) + found["life"].encode()

    _put(Agreement, "accept", accepted)


def near_without_bound() -> None:
    """Serve copies though nobody has vouched for them lately."""
    _put(Stream, "vouched", _always(math.inf))


def near_without_control() -> None:
    """Serve copies whatever has been banned since this process last asked."""
    _put(Tracked, "ctl", property(lambda self: self.shard.view.control.raw, lambda *_: None))


def near_without_changes() -> None:
    """Do not listen when told what has changed."""
    _put(Stream, "changed", _always(None))


def near_without_flush() -> None:
    """Keep the copies of a channel that was lost."""

    def lost(self: Stream) -> None:
        for tracked in self.tracks:
            tracked.until = 0.0
        self._begin()

    _put(Stream, "lost", lost)


def near_without_barrier() -> None:
    """Do not wait for copies where a barrier was asked for."""
    _put(Core, "_wait_for_copies", lambda *_: iter(()))


def near_without_own() -> None:
    """Keep the copies of what this process has changed itself."""
    _put(Near, "forget", _always(None))
    _put(Near, "banned", _always(None))


GUARDS: dict[str, Callable[[], None]] = {
    "lease": no_lease,
    "batch-writes": forgotten_writes,
    "batch-place": lost_writes,
    "stamp": stamp_after_load,
    "closing": no_closing,
    "second-read": no_second_read,
    "boot-fence": no_boot_fence,
    "same-rules": any_rules,
    "sentinel": no_sentinel,
    "missing-control": missing_is_zero,
    "follower-in-time": any_follower,
    "follower-check": no_follower_check,
    "set-ends-lease": set_keeps_lease,
    "delete-ends-lease": delete_keeps_lease,
    "map-life": no_new_life,
    "new-places": no_new_places,
    "near-bound": near_without_bound,
    "near-control": near_without_control,
    "near-changes": near_without_changes,
    "near-flush": near_without_flush,
    "near-barrier": near_without_barrier,
    "near-own": near_without_own,
    "mark-age": any_age,  # no guard: nothing stale may come of this
}


def _always(answer: object) -> Callable[..., object]:
    """A function, or a method, that has given up thinking."""
    return lambda *_: answer


def _edit(name: str, old: str, new: str) -> None:
    script: Script = getattr(scripts, name)
    if old.encode() not in script.source:
        raise LookupError(f"{name} holds no {old!r} any more: fit the removal of this guard to it")
    setattr(
        scripts,
        name,
        Script(f"{script.name} without a guard", script.source.replace(old.encode(), new.encode())),
    )


def _put(owner: Any, name: str, other: Any) -> None:
    if not hasattr(owner, name):
        raise LookupError(f"{owner} has no {name} any more: fit the removal of this guard to it")
    known = getattr(owner, name)
    if isfunction(known) and isfunction(other) and not _takes_what(other, known):
        raise LookupError(f"{owner} calls {name} otherwise now: fit the removal of this guard to it")
    setattr(owner, name, other)


def _takes_what(other: Callable[..., Any], known: Callable[..., Any]) -> bool:
    """Whether the one can be called with what the other must be given."""
    needed = [one for one in signature(known).parameters.values() if one.default is one.empty]
    counted = [one for one in needed if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    try:
        signature(other).bind(*counted)
    except TypeError:
        return False
    return True
