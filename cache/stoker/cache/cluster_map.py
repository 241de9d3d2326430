"""The map on a cluster, where no script can look at it and at a shard's control record at once (rule 5), without I/O.

The map names the server process that it was written on. One that is found on another has come from a replica, a dump or
a move: it may be older than one that has ruled since, and rules again only if no control record of another stands.

*A map begins* closed. Under a closed map no record can be begun; then the records of all shards that any map may have
are deleted, and when all nodes have said so the map is opened. Whoever finds a closed map goes on with it.

*A record begins* as a draft, which no server accepts. Then the map is read once more; if it still rules, the draft is
admitted. So a record of a map that is gone was deleted, or its draft was written after the deletion, hence after the
other map, which is what the second look finds.

Only `cluster` uses it. docs/decisions.md says what goes stale without each of these steps.
"""

import json
import os
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple, cast

from redis.crc import key_slot

from stoker.cache import scripts
from stoker.cache.bans import Control, View
from stoker.cache.control import ATTEMPTS
from stoker.cache.errors import CacheUnavailable
from stoker.cache.keys import ShardKeys
from stoker.cache.parts import Part, at_once
from stoker.cache.protocol import Busy, Found, Lease, Name, Shard, new_secret
from stoker.cache.reshard import Change, Changed
from stoker.cache.shards import MOST_SHARDS, Agreement, fingerprint, parsed
from stoker.cache.wire import Call, Command, Operation, once

DRAFT = b"?"
"""What the name of a draft's server begins with."""


_DRAFTED, _EXPECTED = 1, 2
"""What `fence.lua` says of a record that is not good."""
Expected = dict[bytes, bytes]
"""The names of records that are being handed over, and how they read."""


class ClusterShard(Shard):
    """A shard whose map may be on another node: its operations end with `Unmended` where they would need it."""

    @cached_property
    def slot(self) -> int:
        """Of its keys."""
        return key_slot(self.keys.ctl)

    @cached_property
    def name(self) -> str:
        """For messages."""
        return f"shard {self.keys.number}"

    def _agree(self) -> Operation[None]:
        return
        yield ()

    def fence(
        self, unusable: bytes, reason: str, backwards: bytes = b""
    ) -> Operation[tuple[bytes, bytes, View]]:
        raise Unmended(self, unusable, reason, backwards)
        yield ()

    def acquire(
        self, names: Sequence[Name], lease_ms: int, secret: bytes = b""
    ) -> Operation[list[tuple[Lease | Busy, Found | None]]]:
        secret = secret or new_secret()
        try:
            return (yield from super().acquire(names, lease_ms, secret))
        except Unmended:  # it will be begun again, and must not find these and wait for itself
            yield from self.release([Lease(*name, secret, self.view.stamp) for name in names])
            raise

    def began(self, reason: str, raw: bytes) -> None:
        """This process began the incarnation of this record."""
        control = Control.parse(raw)
        if control is not None:
            self._on_cold(reason, control.incarnation.hex())


def slot_of(shard: Shard) -> int:
    """The slot of a shard's keys."""
    assert isinstance(shard, ClusterShard), "of a cluster"
    return shard.slot


def part_of(shard: Shard, begin: Callable[[], Operation[Any]]) -> Part:
    """An operation of a shard."""
    assert isinstance(shard, ClusterShard), "of a cluster"
    return Part(shard.slot, begin, shard.name)


class Unmended(Exception):
    """A shard's control record is not good, or of a map that is not known; arguments as of `BanLog.fence`."""

    def __init__(self, shard: ClusterShard, unusable: bytes, reason: str, backwards: bytes) -> None:
        super().__init__(shard, unusable, reason, backwards)
        self.shard = shard
        self.unusable = unusable
        self.reason = reason
        self.backwards = backwards

    def only_unknown(self, digest: bytes) -> bool:
        """Whether the record is of this map, which was not known before."""
        control = Control.parse(self.unusable)
        return self.reason == "placement" and control is not None and control.digest == digest


class Charter(NamedTuple):
    """The map as it was found: nothing, or its bytes and what they say; and by which server process."""

    raw: bytes | None
    settings: dict[str, Any]
    server: bytes

    @property
    def open(self) -> bool:
        """Whether records may be begun under it, as far as it says itself."""
        return self.settings.get("open") is True

    @property
    def native(self) -> bool:
        """Whether the server process that has it is the one it names."""
        return self.settings.get("boot") == self.server.decode()

    @property
    def digest(self) -> bytes:
        """What control records under it carry."""
        names = self.settings.keys() - {"open", "boot"}
        plain = {name: self.settings[name] for name in names} | {"life": ""}
        return fingerprint(_rendered(plain)) + str(self.settings["life"]).encode()


def mend(unmended: Sequence[Unmended], *, patient: bool = True) -> Operation[Expected]:
    """Go by the map that rules, and begin new records for shards that have no good one.

    Args:
        patient: Leave those alone that are being handed over to the server that has them now.

    Returns:
        Those that were left alone.

    Raises:
        CacheUnavailable: A node that has to be asked did not answer, or all keeps changing.
        PlacementMismatch: The namespace is open with other settings.
    """
    keys, agreement = unmended[0].shard.keys, unmended[0].shard.agreement
    for _ in range(ATTEMPTS):
        yield from agree(keys, agreement)
        digest = agreement.ruling[1]
        bad = [one for one in unmended if not one.only_unknown(digest)]
        found = yield from at_once(
            _part(one.shard.keys, one.shard.keys.ctl, partial(_draft, one, digest, patient)) for one in bad
        )
        expected = {
            one.shard.keys.ctl: raw
            for one, (raw, state) in zip(bad, found, strict=True)
            if state == _EXPECTED
        }
        drafts = [(one, raw) for one, (raw, state) in zip(bad, found, strict=True) if state == _DRAFTED]
        if not drafts:
            return expected
        if not (yield from still_rules(keys, digest)):
            continue
        admitted = yield from at_once(
            _part(one.shard.keys, one.shard.keys.ctl, partial(_admit, one.shard.keys, digest, raw))
            for one, raw in drafts
        )
        for (one, raw), done in zip(drafts, admitted, strict=True):
            if done:
                one.shard.began(one.reason, raw)
        return expected
    raise CacheUnavailable("redis", "the namespace's map keeps changing; try again")


def still_expected(expected: Expected) -> Operation[bool]:
    """Whether nobody has changed any of these records yet; so that who waits asks for no more than that."""
    names = list(expected)
    parts = (Part(key_slot(name), partial(_asked, ("GET", name)), "a control record") for name in names)
    found = yield from at_once(parts)
    return found == [expected[name] for name in names]


def still_rules(keys: ShardKeys, digest: bytes) -> Operation[bool]:
    """Whether records of this digest may be admitted: the second look. Apart so that tests can take it away."""
    charter = yield from _look(keys)
    return charter.open and charter.native and charter.digest == digest


def agree(keys: ShardKeys, agreement: Agreement) -> Operation[None]:
    """Go by the map that rules; if none does, see that one does."""
    for _ in range(ATTEMPTS):
        charter = yield from _look(keys)
        if charter.raw is not None and charter.open and charter.native:
            agreement.accept(charter.raw)
            return
        if charter.raw is not None and charter.native:
            settings = yield from _opened(keys, charter)
        else:
            settings = yield from _successor(keys, agreement, charter)
        yield from _replace(keys, charter, settings)
    raise CacheUnavailable("redis", "the namespace's map keeps changing; try again")


def learn(keys: ShardKeys, agreement: Agreement) -> Operation[None]:
    """As `control.learn`."""
    if not agreement.guesses:
        return
    charter = yield from _look(keys)
    if charter.raw is not None and charter.open and charter.native:
        agreement.accept(charter.raw)


def _opened(keys: ShardKeys, charter: Charter) -> Operation[dict[str, Any]]:
    """What follows a closed map, once no record of any other is left."""
    yield from end_all(keys, charter.digest)
    return charter.settings | {"open": True}


def change_map(keys: ShardKeys, agreement: Agreement, change: Change) -> Operation[Changed]:
    """Replace the map of a namespace by one that has keys live elsewhere.

    The one that takes its place begins closed, as any does. Whoever finds it so opens it: nothing is left to be done by
    whom it was begun by, if that is killed.

    Raises:
        PlacementMismatch: Another setting than the placement is not this process's; or see `Change.of`.
        CacheUnavailable: A node did not answer, or the map keeps changing.
    """
    before: int | None = None
    for _ in range(2 * ATTEMPTS):
        charter = yield from _look(keys)
        stored = charter.settings if charter.raw is not None else None
        if stored is not None:
            agreement.check_settings(stored)
        wanted = Agreement(agreement.map, change.of(agreement.placement, stored))
        if charter.open and charter.native and wanted.places_as(charter.settings):
            return Changed(wanted.placement, charter.raw or b"", before)
        if stored is not None and charter.native and not charter.open:
            settings = yield from _opened(keys, charter)
        elif charter.native or change.num_shards is not None:
            settings = _begun(wanted, charter)
        else:
            settings = yield from _successor(keys, wanted, charter)
        if (yield from _replace(keys, charter, settings)) and not settings["open"]:
            before = stored["num_shards"] if stored else 0
    raise CacheUnavailable("redis", "the namespace's map keeps changing; try again")


def _successor(keys: ShardKeys, agreement: Agreement, charter: Charter) -> Operation[dict[str, Any]]:
    """What follows a map that is gone, or has come from elsewhere: the same if it alone rules, or another, closed."""
    strangers = yield from others(keys, charter)
    if charter.open and not strangers:
        return charter.settings | {"boot": charter.server.decode()}
    for control in strangers:
        if not any(boot.startswith(DRAFT) for boot in control.boots):
            agreement.check_standing(control.digest)
    return _begun(agreement, charter)


def _begun(agreement: Agreement, charter: Charter) -> dict[str, Any]:
    """A map of another life where this one was found, closed."""
    return parsed(agreement.propose()) | {"boot": charter.server.decode(), "open": False}


def others(keys: ShardKeys, charter: Charter) -> Operation[list[Control]]:
    """Control records, drafts too, of any other map than this one. Apart so that tests can take it away."""
    own = charter.digest if charter.raw is not None else b""
    raws = yield from _every_record(keys, lambda name: ("GET", name))
    return [control for raw in raws if (control := Control.parse(raw)) is not None and control.digest != own]


def end_all(keys: ShardKeys, digest: bytes) -> Operation[None]:
    """Delete the records of all shards that any map but this may have. Apart so that tests can take it away."""

    def end(ctl: bytes) -> Call:
        shard = ctl.removesuffix(b"ctl")
        return Call(scripts.END, (ctl, shard + b"bans", shard + b"marks"), (digest,))

    yield from _every_record(keys, end)


def _every_record(keys: ShardKeys, command: Callable[[bytes], Command]) -> Operation[list[Any]]:
    names = keys.every_ctl(MOST_SHARDS)
    parts = (Part(key_slot(name), partial(_asked, command(name)), "control records") for name in names)
    return (yield from at_once(parts))


def _part(keys: ShardKeys, key: bytes, begin: Any) -> Part:
    return Part(key_slot(key), begin, key.decode().removesuffix(":ctl") if key != keys.map else "the map")


def _asked(command: Command) -> Operation[Any]:
    return (yield from once(command)).reply()


def _look(keys: ShardKeys) -> Operation[Charter]:
    [charter] = yield from at_once((_part(keys, keys.map, partial(_found, keys)),))
    return cast("Charter", charter)


def _found(keys: ShardKeys) -> Operation[Charter]:
    answer = yield (("GET", keys.map),)
    raw = answer.reply()
    return Charter(raw, parsed(raw) if raw is not None else {}, answer.server)


def _replace(keys: ShardKeys, charter: Charter, settings: dict[str, Any]) -> Operation[bool]:
    """Put a map in the place of one that was found; False if that has changed."""
    [done] = yield from at_once((_part(keys, keys.map, partial(_put, keys, charter, settings)),))
    return bool(done)


def _put(keys: ShardKeys, charter: Charter, settings: dict[str, Any]) -> Operation[bool]:
    args = (charter.digest if charter.raw is not None else b"0", charter.raw or b"", _rendered(settings))
    answer = yield (Call(scripts.CHARTER, (keys.map,), (*args, settings["boot"])),)
    return bool(answer.reply())


def _draft(one: Unmended, digest: bytes, patient: bool) -> Operation[tuple[bytes, int]]:
    """The record that stands, and what it is besides a good one."""
    keys = one.shard.keys
    args = (digest, one.unusable, one.backwards.hex(), os.urandom(12).hex(), "0" if patient else "1")
    raw, state = (yield (Call(scripts.FENCE, (keys.ctl, keys.bans, keys.marks), args),)).reply()
    return raw, int(state)


def _admit(keys: ShardKeys, digest: bytes, draft: bytes) -> Operation[bool]:
    return bool((yield (Call(scripts.ADMIT, (keys.ctl,), (digest, draft)),)).reply())


def _rendered(settings: dict[str, Any]) -> bytes:
    return json.dumps(settings, sort_keys=True, separators=(",", ":")).encode()
