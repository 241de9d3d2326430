"""The rules of leases, fills and reads on one shard, without I/O: what to send, and what to make of the answer.

Every operation is a generator of exchanges (see `wire`); whoever drives it only moves bytes: `transport` does for the
sync engine. The rules and their numbers are in docs/design.md; those of the control record are in `control`.
"""

import os
from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import cached_property
from itertools import groupby
from typing import NamedTuple

from msgspec import Struct

from stoker.cache import entry, scripts
from stoker.cache.bans import Control, View
from stoker.cache.control import ATTEMPTS, BanLog
from stoker.cache.entry import Meta, Stamp
from stoker.cache.errors import CacheUnavailable
from stoker.cache.groups import grouped
from stoker.cache.tenancy import tenant_field
from stoker.cache.wire import Call, Command, Operation, alike, out_of_memory, words

Name = tuple[str | None, str]
"""A tenant (None: the shared key space) and a key."""
Sight = tuple[View, list[bytes | None]]
"""What is stored under some names, and a view that may judge it."""


class Lease(Struct, frozen=True, gc=False):
    """Permission to fill one key: `secret` is its token in Redis, `stamp` was read after it was taken.

    Attributes:
        place: Of its batch among the writes of its shard; 0: it was taken for this key alone.
    """

    tenant_id: str | None
    key: str
    secret: bytes
    stamp: Stamp
    place: int = 0

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


class Chunk(NamedTuple):
    """Values of one stamp that one call fills. `fillings` makes them, where they must be looked at one by one."""

    call: Call
    size: int
    stamp: Stamp
    fillings: Callable[[], Sequence[Filling]]


class Asked(IntEnum):
    """What became of asking for a refresh. AGAIN: an earlier one was not done within a lease."""

    ALREADY = 0
    NOW = 1
    AGAIN = 2


LEASE, TOKEN = b"l", b"t"
"""First byte of a lease's secret: a load under way, or a snapshot's token."""


def new_secret() -> bytes:
    """The token of a lease."""
    return LEASE + os.urandom(12).hex().encode()


class Shard(BanLog):
    """One shard: its entries, leases and ban log."""

    takes_batches = True
    """Whether this user may do what batches need, as far as is known."""

    # -- reading (rules 3, 4) ---------------------------------------------------------------------------------

    def read(self, names: Sequence[Name]) -> Operation[list[Found | None]]:
        """The live entries of the keys, in order."""
        view, blobs = yield from self._looked(("MGET", *self.keys.entries_of(names), self.keys.ctl))
        return [self.judge(view, name, blob) for name, blob in zip(names, blobs, strict=True)]

    def look_at_all(self, tenant_id: str | None, keys: Sequence[str]) -> Operation[Sight]:
        """What is stored under a tenant's keys."""
        begin = self.keys.entries_begin(tenant_id)
        packed = alike("MGET", begin, keys, self.keys.ctl.decode())
        return self._looked(packed or ("MGET", *(begin + key for key in keys), self.keys.ctl))

    def look_at(self, tenant_id: str | None, key: str) -> Operation[Sight]:
        """The same of one key."""
        name = self.keys.entry(tenant_id, key)
        return self._looked(self._look_at % (len(name), name))

    @cached_property
    def _look_at(self) -> bytes:
        return b"*3\r\n" + words(b"MGET", None, self.keys.ctl)

    def _looked(self, look: Command) -> Operation[Sight]:
        blobs: list[bytes | None] = []
        for _ in range(ATTEMPTS):
            known = self.view
            answer = yield (look,)
            blobs = answer.reply()
            raw = blobs.pop()
            if known.current(raw, answer.server):
                return known, blobs
            view = yield from self.sync(raw, answer.server, known)
            if answer.server in view.control.boots and not self.retired_under(view, raw):
                return view, blobs
        return self.view, [None] * len(blobs)

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
        if blob is None or (meta := entry.unpack(blob)) is None or not self.serves(view, name, meta):
            return None
        return Found(meta, blob)

    def serves(self, view: View, name: Name, meta: Meta) -> bool:
        """Rule 3 for an entry with this header."""
        if meta.incarnation != view.control.incarnation:
            return False
        if meta.seq > view.control.head:  # stamped by nobody, or the record is older than the entry
            return False
        if meta.seq >= view.bans.newest:
            return True
        return not view.bans.kills(tenant_field(name[0]), name[1], meta.tags, meta.seq)

    # -- filling (rules 1, 2) ---------------------------------------------------------------------------------

    def acquire(
        self, names: Sequence[Name], lease_ms: int, secret: bytes = b""
    ) -> Operation[list[tuple[Lease | Busy, Found | None]]]:
        """Ask for the lease of each key, and look once more whether it is there; both before any load begins."""
        secret = secret or new_secret()
        entries, leases = self.keys.entries_and_leases(names)
        known = self.view
        answer = yield (
            *(("SET", lease, secret, "NX", "GET", "PX", lease_ms) for lease in leases),
            ("MGET", *entries, self.keys.ctl),
        )
        holders = [answer.reply(index) for index in range(len(names))]
        *blobs, raw = answer.reply()
        view = known
        if not known.current(raw, answer.server):
            view = yield from self.sync(raw, answer.server, known)
        moved = answer.server not in view.control.boots or self.retired_under(view, raw)
        outcome: list[tuple[Lease | Busy, Found | None]] = []
        for name, blob, holder in zip(names, blobs, holders, strict=True):
            found = None if moved or blob is None else self.judge(view, name, blob)
            if holder is None:
                outcome.append((Lease(*name, secret, view.stamp), found))
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
        chunks = [list(group) for _, group in groupby(fills, key=lambda one: one.lease.secret)]
        return (yield from self.filled([self._chunk(chunk) for chunk in chunks]))

    def _chunk(self, fills: list[Filling]) -> Chunk:
        lease = fills[0].lease
        if lease.place:
            columns = [one.blob for one in fills], [one.ttl_ms for one in fills]
            call = self.fill_batch_call(
                lease, self.keys.entries_of([one.lease.name for one in fills]), *columns
            )
        elif len(fills) == 1:
            call = self.fill_call(lease, fills[0].blob, fills[0].ttl_ms)
        else:
            call = self.fill_many_call(fills)
        return Chunk(call, len(fills), lease.stamp, lambda: fills)

    def filled(self, chunks: Sequence[Chunk]) -> Operation[list[bool]]:
        """Fill all chunks in one round trip, as a rule; tells of each value whether it was stored and lives on."""
        known = self.view
        answer = yield tuple(chunk.call for chunk in chunks)
        records: list[bytes | Sequence[bytes | None]] = []
        newest: bytes | None = None
        for index, chunk in enumerate(chunks):
            if out_of_memory(answer.replies[index]):
                # The script did not run: give the leases back, so that nobody waits for them.
                yield from self.release([one.lease for one in chunk.fillings()])
                records.append([None] * chunk.size)
            elif (reply := answer.reply(index)) == 1:
                each = yield from self._fill_each(chunk.fillings())
                newest = next((raw for raw in reversed(each) if raw), newest)
                records.append(each)
            else:
                raw, *left_out = reply if isinstance(reply, list) else (reply,)
                newest = raw or newest
                if left_out or not raw:
                    there = [(n not in left_out and raw) or None for n in range(1, chunk.size + 1)]
                    records.append(there)
                else:
                    records.append(raw)
        if newest is None:
            return [False] * sum(chunk.size for chunk in chunks)
        view = known
        if not known.current(newest, answer.server):
            view = yield from self.sync(newest, answer.server, known)
        stored: list[bool] = []
        for chunk, found in zip(chunks, records, strict=True):
            stored += self._live_on(view, chunk, found)
        return stored

    def _live_on(self, view: View, chunk: Chunk, found: bytes | Sequence[bytes | None]) -> list[bool]:
        """Of a chunk that met one control record, or for each value another or none: which values live."""
        raws = [found] * chunk.size if isinstance(found, bytes) else found
        if chunk.stamp == view.stamp:  # nothing was banned since
            return [raw is not None for raw in raws]
        return [
            raw is not None and self.lives(view, one.lease, one.tags)
            for one, raw in zip(chunk.fillings(), raws, strict=True)
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

    def fill_call(self, lease: Lease, blob: bytes, ttl_ms: int) -> Call:
        """Rule 2 as one script."""
        return Call(
            scripts.FILL,
            self._written(*lease.name),
            (self.digest, lease.secret, lease.stamp.incarnation.hex(), lease.stamp.seq, blob, ttl_ms),
        )

    def fill_many_call(self, fills: Sequence[Filling]) -> Call:
        """The same, of values whose leases were taken together."""
        entries, leases = self.keys.entries_and_leases([one.lease.name for one in fills])
        groups = grouped(entries, [one.blob for one in fills], [one.ttl_ms for one in fills])
        lease = fills[0].lease
        given = (self.digest, lease.secret, lease.stamp.incarnation.hex(), lease.stamp.seq)
        return Call(scripts.FILL_MANY, (self.keys.ctl, *leases), (*given, *groups))

    def fill_batch_call(
        self, lease: Lease, entries: Sequence[bytes], blobs: Sequence[bytes], ttls_ms: Sequence[int]
    ) -> Call:
        """The same, of values of one batch; the lease is that of any of them."""
        stamp = lease.stamp
        given = (self.digest, lease.secret, stamp.incarnation.hex(), stamp.seq, lease.place)
        names = (self.keys.ctl, self.keys.writes)
        return Call(scripts.FILL_BATCH, names, (*given, *grouped(entries, blobs, ttls_ms)))

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

    def store(
        self, items: Sequence[tuple[Name, bytes, int]], attempts: int = ATTEMPTS
    ) -> Operation[list[bool]]:
        """Store (name, entry, TTL in ms or 0) each as true now, in so many attempts; False: memory was short."""
        view = self.view if self.view.control.raw else (yield from self.catch_up())
        answer = yield tuple([self._set_call(view, *item) for item in items])
        if answer.replies.count(1) == len(items):
            return [True] * len(items)
        done = {i: True for i, reply in enumerate(answer.replies) if reply == 1}
        for i, reply in enumerate(answer.replies):
            if out_of_memory(reply):
                yield from self.delete(*items[i][0])
                done[i] = False
        if left := [i for i in range(len(items)) if i not in done]:
            raw = answer.reply(left[0])
            if isinstance(raw, bytes):
                yield from self.sync(raw, answer.server, view)
            else:
                yield from self.repair()
            if attempts == 1:
                raise CacheUnavailable("redis", "the control record keeps changing; try again")
            again = yield from self.store([items[i] for i in left], attempts - 1)
            done.update(zip(left, again, strict=True))
        return [done[i] for i in range(len(items))]

    def _set_call(self, view: View, name: Name, blob: bytes, ttl_ms: int) -> Call:
        names = self._written(*name)
        _, at, lease, _ = names
        control, digest = view.control, self.digest
        known = control.raw if control.digest == digest else b""
        stored, ttl = entry.stamped(blob, view.stamp), b"%d" % ttl_ms
        head, tail = self._set_words
        packed = (
            head % (len(at), at, len(lease), lease),
            tail % (len(digest), digest, len(known), known, len(stored), stored, len(ttl), ttl),
        )
        return Call(scripts.SET, names, (digest, known, stored, ttl), packed)

    @cached_property
    def _set_words(self) -> tuple[bytes, bytes]:
        begin = words(b"EVALSHA", scripts.SET.sha, b"4", self.keys.ctl, None, None, self.keys.writes)
        return b"*12\r\n" + begin, words(None, None, None, None)

    def delete(self, tenant_id: str | None, key: str) -> Operation[bool]:
        """Unlink entry and lease; tells whether there was an entry."""
        names = self._written(tenant_id, key)
        for _ in range(ATTEMPTS):
            known = self.view
            answer = yield (Call(scripts.DELETE, names, (self.digest,)),)
            done, value = answer.reply()
            if done:
                return bool(value)
            yield from self.sync(value, answer.server, known)
        raise CacheUnavailable("redis", "the control record keeps changing; try again")

    def _written(self, tenant_id: str | None, key: str) -> tuple[bytes, ...]:
        """The keys of whoever changes an entry."""
        keys = self.keys
        return keys.ctl, keys.entry(tenant_id, key), keys.lease(tenant_id, key), keys.writes
