"""The rules of leases, ban log and boot fence, without I/O: what to send, and what to make of the answer.

Every operation is a generator that yields an `Exchange` (commands for one round trip on one connection) and is sent
an `Answer`. Whoever drives it only moves bytes: `backends.redis` does for the sync engine. The rules and their numbers
are in docs/design.md. A `Shard` may be shared by threads; its lock is never held across a yield.
"""

import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, NamedTuple, TypeVar

from stoker.cache import entry, scripts
from stoker.cache.bans import MAX_SEQ, Control, Rule, View, sentinel
from stoker.cache.entry import Meta, Stamp
from stoker.cache.errors import CacheUnavailable
from stoker.cache.keys import ShardKeys
from stoker.cache.placement import Map
from stoker.cache.scripts import Script
from stoker.cache.tenancy import tenant_field

T = TypeVar("T")
ATTEMPTS = 4
"""How often an operation catches up with moving control state before it gives up."""


@dataclass(frozen=True, slots=True)
class Call:
    """A script, its keys and its arguments. The connection puts its server's id before the arguments."""

    script: Script
    keys: tuple[bytes, ...]
    args: tuple[bytes | str | int, ...]


Command = tuple[bytes | str | int, ...] | Call
Exchange = tuple[Command, ...]


class Answer(NamedTuple):
    """One reply a command, in order, errors as values.

    `server` is what the boot fence calls the server process that gave them, `process` that process itself.
    """

    replies: list[Any]
    server: bytes
    process: bytes

    def reply(self, index: int = -1) -> Any:
        """A reply; an error is raised as CacheUnavailable."""
        reply = self.replies[index]
        if isinstance(reply, Exception):
            raise refusal(reply)
        return reply


Operation = Generator[Exchange, Answer, T]


Name = tuple[str | None, str]
"""A tenant (None: the shared key space) and a key."""


class Lease(NamedTuple):
    """Permission to fill one key: `secret` is its token in Redis, `stamp` was read after it was taken."""

    tenant_id: str | None
    key: str
    secret: bytes
    stamp: Stamp


class Busy(NamedTuple):
    """Another holds the lease; `is_token` if for a snapshot, which nobody waits for."""

    is_token: bool


class Found(NamedTuple):
    """A live entry: its header and its bytes."""

    meta: Meta
    blob: bytes


class Filling(NamedTuple):
    """A loaded value on its way: its entry's bytes, TTL in ms (0 for none) and tags."""

    lease: Lease
    blob: bytes
    ttl_ms: int
    tags: tuple[str, ...]


LEASE, TOKEN = b"l", b"t"
"""First byte of a lease's secret: a load under way, or a snapshot's token."""


def refusal(error: Exception) -> CacheUnavailable:
    """The server's error as ours, with what to do where that is known."""
    text = str(error)
    if "NOPERM" in text or "no permissions" in text.lower():
        text += "; the user's ACL must allow the commands listed in docs/operations.md"
    return CacheUnavailable("redis", text)


def out_of_memory(reply: object) -> bool:
    """Whether a reply is the server's refusal to use more memory."""
    return isinstance(reply, Exception) and ("OOM" in str(reply) or "maxmemory" in str(reply))


def _both(replies: list[Any]) -> tuple[bytes | None, list[tuple[bytes, float]]]:
    for reply in replies:
        if isinstance(reply, Exception):
            raise refusal(reply)
    raw, members = replies
    return raw, members


def _rules(members: Sequence[tuple[bytes, float]]) -> list[tuple[Rule, int]] | None:
    rules = []
    for member, score in members:
        rule = Rule.parse(member)
        if rule is None or not 0 < score <= MAX_SEQ:
            return None
        rules.append((rule, int(score)))
    return rules


class Shard:
    """One shard's protocol and what this process knows of its ban log."""

    def __init__(self, keys: ShardKeys, placement: Map, on_cold: Callable[[str], None]) -> None:
        self.keys = keys
        self.map = placement
        self.view = View()
        self._digest = placement.digest
        self._on_cold = on_cold
        self._lock = Lock()

    # -- catching up with the control record (rules 3, 5, 6) --------------------------------------------------

    def sync(self, raw: bytes | None, server: bytes, known: View) -> Operation[View]:
        """Return a view at least as new as the control record `raw` that `server` answered with.

        `known` is the view this process had before it asked.
        """
        for _ in range(ATTEMPTS):
            control = Control.parse(raw)
            fault = self._fault(control, server, known)
            if control is None or fault:
                backwards = control.incarnation if control is not None and fault == "regressed" else b""
                raw, server, known = yield from self.fence(raw or b"", fault, backwards)
                continue
            now = self.view
            if now.control.incarnation == control.incarnation:
                if (
                    control.head <= now.control.head
                    and control.floor <= now.control.floor
                    and server in now.control.boots
                ):
                    return now
            elif control.incarnation in now.left:
                return now  # the answer is from before a change that another thread has seen
            raw, server, known, done = yield from self._pull(control)
            if done:
                return self.view
        raise CacheUnavailable("redis", "the control record keeps changing; try again")

    def _fault(self, control: Control | None, server: bytes, known: View) -> str:
        """Why a control record must not be believed, or ''."""
        if control is None:
            return "missing"
        if control.digest != self._digest:
            return "placement"
        if server not in control.boots:
            return "server"
        if self.regressed(known, control):
            return "regressed"
        return ""

    def regressed(self, known: View, control: Control) -> bool:
        """Rule 5: whether control state went backwards. Apart so that the checker can take this guard away."""
        return known.regressed(control)

    def _pull(self, control: Control) -> Operation[tuple[bytes | None, bytes, View, bool]]:
        """Read the rules after our view; publish the view that follows. The last item tells whether that was done."""
        base = self.view
        same_life = base.control.incarnation == control.incarnation
        since = f"({base.control.head}" if same_life else "-inf"
        answer = yield (
            ("MULTI",),
            ("GET", self.keys.ctl),
            ("ZRANGEBYSCORE", self.keys.bans, since, "+inf", "WITHSCORES"),
            ("EXEC",),
        )
        raw, members = _both(answer.reply())
        pulled = Control.parse(raw)
        if (
            pulled is None
            or self._fault(pulled, answer.server, base)
            or pulled.incarnation != control.incarnation
            or pulled.head < control.head
        ):
            return raw, answer.server, base, False
        if not self.complete(pulled, members):
            raw, server, known = yield from self.fence(pulled.raw, "sentinel")
            return raw, server, known, False
        rules = _rules(members[:-1])
        if rules is None:
            raw, server, known = yield from self.fence(pulled.raw, "corrupt")
            return raw, server, known, False
        with self._lock:
            if self.view is not base:
                return raw, answer.server, base, False
            self.view = base.advanced(pulled, rules)
        return raw, answer.server, base, True

    def complete(self, control: Control, members: Sequence[tuple[bytes, float]]) -> bool:
        """Whether the ban log belongs to the record: the two keys can be lost apart."""
        return bool(members) and members[-1][0] == sentinel(control.incarnation)

    def fence(
        self, unusable: bytes, reason: str, backwards: bytes = b""
    ) -> Operation[tuple[bytes, bytes, View]]:
        """Begin a new incarnation unless a good control record stands.

        `unusable` is a record that must not stand, `backwards` an incarnation that must not, whatever its record.
        Returns the record that rules, the server that has it, and the view from before it was asked.
        """
        for _ in range(ATTEMPTS):
            yield from self._agree_on_map()
            known = self.view
            answer = yield (
                Call(
                    scripts.FENCE,
                    (self.keys.ctl, self.keys.bans, self.keys.marks),
                    (self._digest, unusable, backwards.hex(), os.urandom(12).hex()),
                ),
                ("GET", self.keys.map),
            )
            raw, begun = answer.reply(0)
            if begun:
                self._on_cold(reason)
            if answer.reply(1) is None:
                continue  # flushed in between
            self.map.check(answer.reply(1))
            control = Control.parse(raw)
            if control is None or control.digest == self._digest:
                return raw, answer.server, known
        raise CacheUnavailable("redis", "the control record keeps changing; try again")

    def _agree_on_map(self) -> Operation[None]:
        """Write the map if there is none, and refuse to go on under another one."""
        answer = yield (("GET", self.keys.map), ("GET", self.keys.ctl))
        stored, control = answer.reply(0), Control.parse(answer.reply(1))
        if stored is None:
            if control is not None and control.digest != self._digest:
                self.map.check(None)
            answer = yield (("SET", self.keys.map, self.map.raw, "NX"), ("GET", self.keys.map))
            stored = answer.reply()
        self.map.check(stored)

    def forked(self) -> None:
        """Begin with a lock of its own: in a forked child the parent's may be held for ever."""
        self._lock = Lock()

    def catch_up(self) -> Operation[View]:
        """Return a view as new as the control record is now."""
        known = self.view
        answer = yield (("GET", self.keys.ctl),)
        raw = answer.reply()
        if known.current(raw, answer.server):
            return known
        return (yield from self.sync(raw, answer.server, known))

    def _repair(self) -> Operation[View]:
        """After a script refused the control record: replace it if it is bad, then catch up."""
        return (yield from self.sync(*(yield from self.fence(b"", "refused"))))

    # -- reading (rules 3, 4) ---------------------------------------------------------------------------------

    def read(self, tenant_id: str | None, keys: Sequence[str]) -> Operation[list[Found | None]]:
        """The live entries of the keys, in order."""
        names = [self.keys.entry(tenant_id, key) for key in keys]
        field = tenant_field(tenant_id)
        for _ in range(ATTEMPTS):
            known = self.view
            answer = yield (("MGET", *names, self.keys.ctl),)
            *blobs, raw = answer.reply()
            view = known
            if not known.current(raw, answer.server):
                view = yield from self.sync(raw, answer.server, known)
            if answer.server in view.control.boots and not self.retired_under(view, raw):
                return [self.judge(view, field, key, blob) for key, blob in zip(keys, blobs, strict=True)]
        return [None] * len(keys)

    def retired_under(self, view: View, raw: bytes | None) -> bool:
        """Rule 4: whether bans that this answer should be judged by have left the view since."""
        if raw == view.control.raw:
            return False
        control = Control.parse(raw)
        return (
            control is not None
            and control.incarnation == view.control.incarnation
            and control.floor < view.control.floor
        )

    def judge(self, view: View, field: str, key: str, blob: bytes | None) -> Found | None:
        """Rule 3: the entry, if it may be served."""
        meta = entry.unpack(blob) if blob is not None else None
        if meta is None or blob is None:
            return None
        if meta.incarnation != view.control.incarnation:
            return None
        if len(view.bans) and view.bans.kills(field, key, meta.tags, meta.seq):
            return None
        return Found(meta, blob)

    # -- filling (rules 1, 2) ---------------------------------------------------------------------------------

    def acquire(
        self, names: Sequence[Name], lease_ms: int
    ) -> Operation[list[tuple[Lease | Busy, Found | None]]]:
        """Ask for the lease of each key, and look once more whether it is there; both before any load begins."""
        secrets = [LEASE + os.urandom(12).hex().encode() for _ in names]
        known = self.view
        answer = yield (
            *(
                ("SET", self.keys.lease(*name), secret, "NX", "GET", "PX", lease_ms)
                for name, secret in zip(names, secrets, strict=True)
            ),
            ("MGET", *(self.keys.entry(*name) for name in names), self.keys.ctl),
        )
        *blobs, raw = answer.reply()
        view = known
        if not known.current(raw, answer.server):
            view = yield from self.sync(raw, answer.server, known)
        moved = answer.server not in view.control.boots or self.retired_under(view, raw)
        outcome: list[tuple[Lease | Busy, Found | None]] = []
        for index, (tenant_id, key) in enumerate(names):
            holder = answer.reply(index)
            found = None if moved else self.judge(view, tenant_field(tenant_id), key, blobs[index])
            if holder is None:
                outcome.append((Lease(tenant_id, key, secrets[index], view.stamp), found))
            else:
                outcome.append((Busy(bytes(holder[:1]) == TOKEN), found))
        return outcome

    def snapshot(self, tenant_id: str | None, key: str, hold_ms: int) -> Operation[Lease]:
        """Take the key's lease from whoever has it, as a token (rule 12)."""
        secret = TOKEN + os.urandom(12).hex().encode()
        known = self.view
        answer = yield (
            ("SET", self.keys.lease(tenant_id, key), secret, "PX", hold_ms),
            ("GET", self.keys.ctl),
        )
        answer.reply(0)
        raw = answer.reply()
        view = known
        if not known.current(raw, answer.server):
            view = yield from self.sync(raw, answer.server, known)
        return Lease(tenant_id, key, secret, view.stamp)

    def fill(self, fills: Sequence[Filling]) -> Operation[list[bool]]:
        """Store each value under its lease; tells which were stored and live on."""
        known = self.view
        answer = yield tuple(self.fill_call(*one[:3]) for one in fills)
        no_room = [
            one.lease for one, reply in zip(fills, answer.replies, strict=True) if out_of_memory(reply)
        ]
        if no_room:  # the script did not run: give the leases back, so that nobody waits for them
            yield (self.release_call(no_room),)
        records = [
            None if out_of_memory(reply) else answer.reply(i) for i, reply in enumerate(answer.replies)
        ]
        newest = next((raw for raw in reversed(records) if raw), None)
        if newest is None:
            return [False] * len(fills)
        view = known
        if not known.current(newest, answer.server):
            view = yield from self.sync(newest, answer.server, known)
        return [
            bool(raw) and self.lives(view, one.lease, one.tags)
            for one, raw in zip(fills, records, strict=True)
        ]

    def lives(self, view: View, lease: Lease, tags: Sequence[str]) -> bool:
        """Whether a value loaded under the lease may be served by this view, retired bans included."""
        if lease.stamp.seq < view.control.floor:
            return False  # a ban that kills it may have retired
        return not view.kills(tenant_field(lease.tenant_id), lease.key, tags, lease.stamp)

    def fill_call(self, lease: Lease, blob: bytes, ttl_ms: int) -> Call:
        """Rule 2 as one script."""
        return Call(
            scripts.FILL,
            (self.keys.ctl, self.keys.entry(*lease[:2]), self.keys.lease(*lease[:2])),
            (self._digest, lease.secret, lease.stamp.incarnation.hex(), lease.stamp.seq, blob, ttl_ms),
        )

    def release_call(self, leases: Sequence[Lease]) -> Call:
        """Give leases back."""
        names = tuple(self.keys.lease(lease.tenant_id, lease.key) for lease in leases)
        return Call(scripts.RELEASE, names, (self._digest, *(lease.secret for lease in leases)))

    def renew_call(self, leases: Sequence[Lease], lease_ms: int) -> Call:
        """Prolong leases."""
        names = tuple(self.keys.lease(lease.tenant_id, lease.key) for lease in leases)
        return Call(scripts.RENEW, names, (self._digest, lease_ms, *(lease.secret for lease in leases)))

    # -- changing (rules 7, 11, 12) ---------------------------------------------------------------------------

    def store(self, tenant_id: str | None, items: Sequence[tuple[str, bytes, int]]) -> Operation[list[bool]]:
        """Store (key, entry, TTL in ms or 0) each as true now; False for those the server had no memory for."""
        done: dict[int, bool] = {}
        for _ in range(ATTEMPTS):
            view = self.view
            if not view.control.raw:
                view = yield from self.catch_up()
            left = [i for i in range(len(items)) if i not in done]
            answer = yield tuple(self._set_call(view, tenant_id, *items[i]) for i in left)
            for i, reply in zip(left, answer.replies, strict=True):
                if reply == 1:
                    done[i] = True
                elif out_of_memory(reply):
                    yield from self.delete(tenant_id, items[i][0])
                    done[i] = False
            if len(done) == len(items):
                return [done[i] for i in range(len(items))]
            refused = next(n for n, i in enumerate(left) if i not in done)
            raw = answer.reply(refused)
            if isinstance(raw, bytes):
                yield from self.sync(raw, answer.server, view)
            else:
                yield from self._repair()
        raise CacheUnavailable("redis", "the control record keeps changing; try again")

    def _set_call(self, view: View, tenant_id: str | None, key: str, blob: bytes, ttl_ms: int) -> Call:
        incarnation = view.control.incarnation
        return Call(
            scripts.SET,
            (self.keys.ctl, self.keys.entry(tenant_id, key), self.keys.lease(tenant_id, key)),
            (
                self._digest,
                incarnation.hex(),
                blob[: entry.STAMP.start] + incarnation,
                blob[entry.AFTER_SEQ :],
                ttl_ms,
            ),
        )

    def delete(self, tenant_id: str | None, key: str) -> Operation[bool]:
        """Unlink entry and lease; tells whether there was an entry."""
        call = Call(
            scripts.DELETE,
            (self.keys.ctl, self.keys.entry(tenant_id, key), self.keys.lease(tenant_id, key)),
            (self._digest,),
        )
        for _ in range(ATTEMPTS):
            known = self.view
            answer = yield (call,)
            done, value = answer.reply()
            if done:
                return bool(value)
            yield from self.sync(value, answer.server, known)
        raise CacheUnavailable("redis", "the control record keeps changing; try again")

    def ban(self, rules: Sequence[Rule]) -> Operation[None]:
        """Add rules to the ban log; when this returns they rule every later read."""
        for _ in range(ATTEMPTS):
            answer = yield (
                Call(
                    scripts.BAN,
                    (self.keys.ctl, self.keys.bans, self.keys.marks),
                    (self._digest, os.urandom(4).hex(), *(rule.member() for rule in rules)),
                ),
            )
            if answer.reply() == 1:
                return
            yield from self._repair()
        raise CacheUnavailable("redis", "the control record keeps changing; try again")
