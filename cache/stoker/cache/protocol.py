"""The rules of leases, fills and reads on one shard, without I/O: what to send, and what to make of the answer.

Every operation is a generator of exchanges (see `wire`); whoever drives it only moves bytes: `transport` does for the
sync engine. The rules and their numbers are in docs/design.md; those of the control record are in `control`.
"""

import os
from collections.abc import Sequence
from enum import IntEnum
from itertools import groupby
from typing import Any, NamedTuple

from msgspec import Struct

from stoker.cache import entry, scripts
from stoker.cache.bans import Control, View
from stoker.cache.control import ATTEMPTS, BanLog
from stoker.cache.entry import Meta, Stamp
from stoker.cache.errors import CacheUnavailable
from stoker.cache.tenancy import tenant_field
from stoker.cache.wire import Answer, Call, Command, Operation, not_known, out_of_memory

Name = tuple[str | None, str]
"""A tenant (None: the shared key space) and a key."""


class Lease(Struct, frozen=True, gc=False):
    """Permission to fill one key: `secret` is its token in Redis, `stamp` was read after it was taken."""

    tenant_id: str | None
    key: str
    secret: bytes
    stamp: Stamp

    @property
    def name(self) -> Name:
        """Tenant and key."""
        return self.tenant_id, self.key


class Busy(NamedTuple):
    """Another holds the lease; `is_token` if for a snapshot, which nobody waits for."""

    is_token: bool


class Found(Struct, frozen=True, gc=False):
    """A live entry: its header and its bytes."""

    meta: Meta
    blob: bytes


class Filling(Struct, frozen=True, gc=False):
    """A loaded value on its way: its entry's bytes, TTL in ms (0 for none) and tags."""

    lease: Lease
    blob: bytes
    ttl_ms: int
    tags: tuple[str, ...]


class Asked(IntEnum):
    """What became of asking for a refresh. AGAIN: an earlier one was not done within a lease."""

    ALREADY = 0
    NOW = 1
    AGAIN = 2


LEASE, TOKEN = b"l", b"t"
"""First byte of a lease's secret: a load under way, or a snapshot's token."""


class Shard(BanLog):
    """One shard: its entries, leases and ban log."""

    _sets_together = True
    """Whether the server may know MSETEX (Redis 8.4, Valkey 9.1), and we may use it."""

    # -- reading (rules 3, 4) ---------------------------------------------------------------------------------

    def read(self, names: Sequence[Name]) -> Operation[list[Found | None]]:
        """The live entries of the keys, in order."""
        view, blobs = yield from self.look([self.keys.entry(*name) for name in names])
        return [self.judge(view, name, blob) for name, blob in zip(names, blobs, strict=True)]

    def look(self, entries: Sequence[bytes]) -> Operation[tuple[View, list[bytes | None]]]:
        """What is stored under these names, and a view that may judge it."""
        look: Command = ("MGET", *entries, self.keys.ctl)
        for _ in range(ATTEMPTS):
            known = self.view
            answer = yield (look,)
            *blobs, raw = answer.reply()
            if known.current(raw, answer.server):
                return known, blobs
            view = yield from self.sync(raw, answer.server, known)
            if answer.server in view.control.boots and not self.retired_under(view, raw):
                return view, blobs
        return self.view, [None] * len(entries)

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

    def judge(self, view: View, name: Name, blob: bytes | None) -> Found | None:
        """Rule 3: the entry, if it may be served."""
        if blob is None or (meta := entry.unpack(blob)) is None:
            return None
        control, bans = view.control, view.bans
        if meta.incarnation != control.incarnation:
            return None
        if meta.seq > control.head:  # stamped by nobody, or the record is older than the entry
            return None
        if meta.seq < bans.newest and bans.kills(tenant_field(name[0]), name[1], meta.tags, meta.seq):
            return None
        return Found(meta, blob)

    # -- filling (rules 1, 2) ---------------------------------------------------------------------------------

    def acquire(
        self, names: Sequence[Name], lease_ms: int
    ) -> Operation[list[tuple[Lease | Busy, Found | None]]]:
        """Ask for the lease of each key, and look once more whether it is there; both before any load begins."""
        secret = LEASE + os.urandom(12).hex().encode()
        known = self.view
        answer, holders = yield from self._lease(names, secret, lease_ms)
        *blobs, raw = answer.reply()
        view = known
        if not known.current(raw, answer.server):
            view = yield from self.sync(raw, answer.server, known)
        moved = answer.server not in view.control.boots or self.retired_under(view, raw)
        stamp = view.stamp
        if holders.count(None) == blobs.count(None) == len(names):  # as a rule, where many are asked for
            return [(Lease(tenant_id, key, secret, stamp), None) for tenant_id, key in names]
        outcome: list[tuple[Lease | Busy, Found | None]] = []
        for name, blob, holder in zip(names, blobs, holders, strict=True):
            found = None if moved or blob is None else self.judge(view, name, blob)
            if holder is None:
                outcome.append((Lease(*name, secret, stamp), found))
            else:
                outcome.append((Busy(bytes(holder[:1]) == TOKEN), found))
        return outcome

    def _lease(
        self, names: Sequence[Name], secret: bytes, lease_ms: int
    ) -> Operation[tuple[Answer, list[Any]]]:
        """Take the leases that are free: all at once, or else each. Returns who holds those that were not, or None.

        The last reply of the answer has the entries and the control record.
        """
        entries, leases = self.keys.entries_and_leases(names)
        look: Command = ("MGET", *entries, self.keys.ctl)
        if len(names) > 1 and self._sets_together:
            answer = yield (_lease_together(leases, secret, lease_ms), look)
            if answer.replies[0] == 1:
                return answer, [None] * len(names)
            self._sets_together = not not_known(answer.replies[0])
        answer = yield (*(("SET", lease, secret, "NX", "GET", "PX", lease_ms) for lease in leases), look)
        return answer, [answer.reply(index) for index in range(len(names))]

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
        chunks = _taken_together(fills)
        answer = yield tuple(self._fill_call(chunk) for chunk in chunks)
        records: list[bytes | None] = []
        for index, chunk in enumerate(chunks):
            if out_of_memory(answer.replies[index]):
                # The script did not run: give the leases back, so that nobody waits for them.
                yield from self.release([one.lease for one in chunk])
                records += [None] * len(chunk)
            elif (reply := answer.reply(index)) == 1:
                records += yield from self._fill_each(chunk)
            else:
                records += [reply or None] * len(chunk)
        newest = next((raw for raw in reversed(records) if raw), None)
        if newest is None:
            return [False] * len(fills)
        view = known
        if not known.current(newest, answer.server):
            view = yield from self.sync(newest, answer.server, known)
        now = view.stamp  # nothing was banned since a stamp that is still the newest
        return [
            raw is not None and (one.lease.stamp == now or self.lives(view, one.lease, one.tags))
            for one, raw in zip(fills, records, strict=True)
        ]

    def _fill_each(self, fills: Sequence[Filling]) -> Operation[list[bytes | None]]:
        """For each fill the control record it met, or None if it was not stored."""
        answer = yield tuple(self.fill_call(one.lease, one.blob, one.ttl_ms) for one in fills)
        no_room = [
            one.lease for one, reply in zip(fills, answer.replies, strict=True) if out_of_memory(reply)
        ]
        if no_room:
            yield from self.release(no_room)
        return [
            None if out_of_memory(reply) else answer.reply(i) or None
            for i, reply in enumerate(answer.replies)
        ]

    def lives(self, view: View, lease: Lease, tags: Sequence[str]) -> bool:
        """Whether a value loaded under the lease may be served by this view, retired bans included."""
        if lease.stamp.seq < view.control.floor:
            return False  # a ban that kills it may have retired
        return not view.kills(tenant_field(lease.tenant_id), lease.key, tags, lease.stamp)

    def _fill_call(self, chunk: Sequence[Filling]) -> Call:
        if len(chunk) > 1:
            return self._fill_many_call(chunk)
        [one] = chunk
        return self.fill_call(one.lease, one.blob, one.ttl_ms)

    def fill_call(self, lease: Lease, blob: bytes, ttl_ms: int) -> Call:
        """Rule 2 as one script."""
        return Call(
            scripts.FILL,
            (self.keys.ctl, self.keys.entry(*lease.name), self.keys.lease(*lease.name)),
            (self.digest, lease.secret, lease.stamp.incarnation.hex(), lease.stamp.seq, blob, ttl_ms),
        )

    def _fill_many_call(self, chunk: Sequence[Filling]) -> Call:
        """The same, of values that were leased together."""
        lease = chunk[0].lease
        entries, leases = self.keys.entries_and_leases([one.lease.name for one in chunk])
        pairs: list[bytes] = [b""] * (2 * len(chunk))
        pairs[::2] = entries
        pairs[1::2] = [one.blob for one in chunk]
        args: list[bytes | str | int] = []
        groups = first = 0
        for ttl_ms, same in groupby([one.ttl_ms for one in chunk]):
            count = len(list(same))
            expiry = ("PX", ttl_ms) if ttl_ms else ()
            args += (1 + 2 * count + len(expiry), count, *pairs[2 * first : 2 * (first + count)], *expiry)
            groups += 1
            first += count
        stamp = (lease.stamp.incarnation.hex(), lease.stamp.seq)
        given = (self.digest, lease.secret, *stamp, int(self._sets_together), groups, *args)
        return Call(scripts.FILL_MANY, (self.keys.ctl, *leases), given)

    def release(self, leases: Sequence[Lease]) -> Operation[list[None]]:
        """Give back the leases that are still held."""
        names = tuple(self.keys.lease(lease.tenant_id, lease.key) for lease in leases)
        secrets = (lease.secret for lease in leases)
        (yield (Call(scripts.RELEASE, names, (self.digest, *secrets)),)).reply()
        return [None] * len(leases)

    def renew(self, leases: Sequence[Lease], lease_ms: int) -> Operation[list[None]]:
        """Prolong the leases that are still held."""
        names = tuple(self.keys.lease(lease.tenant_id, lease.key) for lease in leases)
        secrets = (lease.secret for lease in leases)
        (yield (Call(scripts.RENEW, names, (self.digest, lease_ms, *secrets)),)).reply()
        return [None] * len(leases)

    def ask_refresh(self, tenant_id: str | None, key: str, lease_ms: int) -> Operation[Asked]:
        """Note that the entry is to be refreshed elsewhere."""
        call = Call(scripts.ASK, (self.keys.refresh(tenant_id, key),), (self.digest, lease_ms))
        return Asked((yield (call,)).reply())

    def refreshed(self, tenant_id: str | None, key: str) -> Operation[None]:
        """Take that note back."""
        (yield (("UNLINK", self.keys.refresh(tenant_id, key)),)).reply()

    # -- changing (rules 7, 11, 12) ---------------------------------------------------------------------------

    def store(self, items: Sequence[tuple[Name, bytes, int]]) -> Operation[list[bool]]:
        """Store (name, entry, TTL in ms or 0) each as true now; False for those the server had no memory for."""
        done: dict[int, bool] = {}
        left: Sequence[int] = range(len(items))
        for _ in range(ATTEMPTS):
            view = self.view
            if not view.control.raw:
                view = yield from self.catch_up()
            answer = yield tuple([self._set_call(view, *items[i]) for i in left])
            if answer.replies.count(1) == len(items):
                return [True] * len(items)
            for i, reply in zip(left, answer.replies, strict=True):
                if reply == 1:
                    done[i] = True
                elif out_of_memory(reply):
                    yield from self.delete(*items[i][0])
                    done[i] = False
            if len(done) == len(items):
                return [done[i] for i in range(len(items))]
            refused = next(n for n, i in enumerate(left) if i not in done)
            left = [i for i in left if i not in done]
            raw = answer.reply(refused)
            if isinstance(raw, bytes):
                yield from self.sync(raw, answer.server, view)
            else:
                yield from self.repair()
        raise CacheUnavailable("redis", "the control record keeps changing; try again")

    def _set_call(self, view: View, name: Name, blob: bytes, ttl_ms: int) -> Call:
        names = (self.keys.ctl, self.keys.entry(*name), self.keys.lease(*name))
        control = view.control
        known = control.raw if control.digest == self.digest else b""
        args = (self.digest, known, entry.stamped(blob, view.stamp), ttl_ms)
        return Call(scripts.SET, names, args)

    def delete(self, tenant_id: str | None, key: str) -> Operation[bool]:
        """Unlink entry and lease; tells whether there was an entry."""
        names = (self.keys.ctl, self.keys.entry(tenant_id, key), self.keys.lease(tenant_id, key))
        for _ in range(ATTEMPTS):
            known = self.view
            answer = yield (Call(scripts.DELETE, names, (self.digest,)),)
            done, value = answer.reply()
            if done:
                return bool(value)
            yield from self.sync(value, answer.server, known)
        raise CacheUnavailable("redis", "the control record keeps changing; try again")


def _lease_together(leases: Sequence[bytes], secret: bytes, lease_ms: int) -> Command:
    """Take all of these leases, or none if one of them is held."""
    pairs = [secret] * (2 * len(leases))
    pairs[::2] = leases
    return ("MSETEX", len(leases), *pairs, "NX", "PX", lease_ms)


def _taken_together(fills: Sequence[Filling]) -> list[Sequence[Filling]]:
    """The fills in order, in groups that were leased together."""
    return [list(group) for _, group in groupby(fills, key=lambda one: one.lease.secret)]
