"""A shard's ban log, without I/O: keeping up with it, adding to it, keeping it short (rules 3, 5, 6, 7 and 10).

`protocol.Shard` is a `BanLog` that also reads and writes entries. May be shared by threads; its lock is never held
across a yield.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Lock
from typing import Any

from stoker.cache import scripts
from stoker.cache.bans import EXPECTED, BanTable, Control, Kind, Rule, TenantSize, View, sentinel
from stoker.cache.caps import CAPS, BanNews, Caps, Coalesced, ManyBans
from stoker.cache.chance import CHANCE
from stoker.cache.errors import CacheUnavailable
from stoker.cache.keys import ShardKeys
from stoker.cache.shards import MOST_SHARDS, Agreement
from stoker.cache.tenancy import tenant_of
from stoker.cache.wire import Call, Operation, refusal

ATTEMPTS = 4
"""How often an operation catches up with moving control state before it gives up."""


_PAGE = 1000
"""Most rules that one script looks at, so that none holds the server for long."""


class BanLog:
    """What this process knows of one shard's ban log, and how it keeps up with it.

    Args:
        on_cold: Told the reason and the name when this process began a new incarnation.
        on_bans: Told when a sweep is due, and which tenants were banned as a whole to keep the log short.
    """

    caps: Caps = CAPS
    """Apart so that the checker can make them tiny."""

    def __init__(
        self,
        keys: ShardKeys,
        agreement: Agreement,
        on_cold: Callable[[str, str], None],
        on_bans: Callable[[BanNews], None] = lambda _: None,
    ) -> None:
        self.keys = keys
        self.agreement = agreement
        self.view = View()
        self._on_cold = on_cold
        self._on_bans = on_bans
        self._lock = Lock()

    def sync(self, raw: bytes | None, server: bytes, known: View) -> Operation[View]:
        """Return a view at least as new as the control record `raw` that `server` answered with.

        `known` is the view this process had before it asked.
        """
        for _ in range(ATTEMPTS):
            control = Control.parse(raw)
            fault = self._fault(control, server, known)
            if fault == "placement":  # perhaps the map was lost and written again
                yield from self._agree()
                fault = self._fault(control, server, known)
            if control is None or fault:
                backwards = control.incarnation if control is not None and fault == "regressed" else b""
                raw, server, known = yield from self.fence(raw or b"", fault, backwards)
                continue
            now = self.view
            if self.same_rules(now.control, control):
                return self._adopt(now, control)
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

    @property
    def digest(self) -> bytes:
        """What a control record must carry to be of the ruling map."""
        return self.agreement.ruling[1]

    def _fault(self, control: Control | None, server: bytes, known: View) -> str:
        """Why a control record must not be believed, or ''."""
        if control is None:
            return "missing"
        if control.digest != self.digest:
            return "placement"
        if server not in control.boots:
            return "expected" if EXPECTED + server in control.boots else "server"
        if self.regressed(known, control):
            return "regressed"
        return ""

    def regressed(self, known: View, control: Control) -> bool:
        """Rule 5: whether control state went backwards. Apart so that the checker can take this guard away."""
        return known.regressed(control)

    def same_rules(self, known: Control, control: Control) -> bool:
        """Whether a record is newer only in what fills are refused by, as a sweep that has begun leaves it, or in who
        may answer, as a hand-over does.

        Apart so that the checker can take this guard away.
        """
        if (
            control.closing < known.closing
            or control.generation < known.generation
            or control.raw == known.raw
        ):
            return False
        return known == replace(
            control,
            raw=known.raw,
            closing=known.closing,
            generation=known.generation,
            boots=known.boots,
        )

    def _adopt(self, view: View, control: Control) -> View:
        """Go by the newer record with the rules of this view, so that the next answers are compared with that one."""
        with self._lock:
            if self.view is view:
                self.view = replace(view, control=control)
            return self.view

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
        rules = _rules(members[:-1], pulled.head)
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
            yield from self._agree()
            known = self.view
            agreed, digest = self.agreement.ruling
            answer = yield (
                Call(
                    scripts.FENCE,
                    (self.keys.ctl, self.keys.bans, self.keys.marks, self.keys.map),
                    (digest, unusable, backwards.hex(), os.urandom(12).hex(), agreed),
                ),
            )
            raw, begun = answer.reply()
            if begun and (control := Control.parse(raw)) is not None:
                self._on_cold(reason, control.incarnation.hex())
            if raw is not None:
                return raw, answer.server, known
        raise CacheUnavailable("redis", "the control record keeps changing; try again")

    def _agree(self) -> Operation[None]:
        return agree(self.keys, self.agreement)

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

    def repair(self) -> Operation[View]:
        """After a script refused the control record: replace it if it is bad, then catch up."""
        return (yield from self.sync(*(yield from self.fence(b"", "refused"))))

    # -- adding, and keeping it short (rules 7, 10) -------------------------------------------------------------

    def ban(self, members: Sequence[bytes]) -> Operation[int]:
        """Add rules, as members of the ban log, to it; when this returns they rule every later read.

        Returns 0, or the log's length if it is this caller's turn to `shorten` it. That is an operation of its own, so
        that its failure does not make an acknowledged invalidation look like a failed one.
        """
        names = self.keys.ctl, self.keys.bans, self.keys.marks
        for _ in range(ATTEMPTS):
            nonce = f"{CHANCE.getrandbits(32):08x}"  # no secret, and of many shards at once
            answer = yield (Call(scripts.BAN, names, (self.digest, nonce, *members)),)
            reply = answer.reply()
            if reply:
                head, length = reply
                turn = head % self.caps.stride == 0 and length > self.caps.least
                return length if turn else 0
            yield from self.repair()
        raise CacheUnavailable("redis", "the control record keeps changing; try again")

    def shorten(self, length: int) -> Operation[None]:
        """See to a ban log that was `length` rules long: tell when a sweep is due, and enforce the caps.

        A tenant beyond its cap gets one rule in place of all. What such rules make needless is removed once it is most
        of the log. May end anywhere: the next turn sees to the rest.
        """
        bans = (yield from self.catch_up()).bans
        sizes = bans.sizes()
        patterns = max((size.patterns for size in sizes), default=0)
        if length > self.caps.many_bans or patterns > self.caps.many_patterns:
            self._on_bans(ManyBans(length, patterns))
        crowded = [size for size in sizes if self.caps.exceeded_by(size)]
        if crowded:
            bans = yield from self._coalesce(crowded)
            length += len(crowded)
        needless = length - len(bans)
        if needless > max(len(bans), self.caps.patterns):
            yield from self._prune(length)

    def _coalesce(self, crowded: Sequence[TenantSize]) -> Operation[BanTable]:
        """Ban each of the tenants as a whole."""
        yield from self.ban([Rule(Kind.TENANT, size.tenant, "").member() for size in crowded])
        for size in crowded:
            self._on_bans(Coalesced(tenant_of(size.tenant), size.patterns + size.named))
        return (yield from self.catch_up()).bans

    def _prune(self, length: int) -> Operation[None]:
        """Remove the rules that a ban of their tenant makes needless.

        From the newest page to the oldest: ranks only ever fall, so none falls past a page that is still to come.
        """
        for start in range(length - length % _PAGE, -1, -_PAGE):
            answer = yield (Call(scripts.PRUNE, (self.keys.bans,), (self.digest, start, start + _PAGE - 1)),)
            answer.reply()


def agree(keys: ShardKeys, agreement: Agreement) -> Operation[None]:
    """Go by the map that rules, write it if there is none, and refuse to go on under another one's settings.

    The control record of these keys stands for all.
    """
    answer = yield (("GET", keys.map), ("GET", keys.ctl))
    stored, control = answer.reply(0), Control.parse(answer.reply(1))
    if stored is None:
        if control is not None:
            agreement.check_standing(control.digest)
        names = (keys.map, *keys.every_ctl(MOST_SHARDS))
        answer = yield (Call(scripts.OPEN, names, (agreement.ruling[1], agreement.propose(), b"")),)
        stored = answer.reply()
    agreement.accept(stored)


def learn(keys: ShardKeys, agreement: Agreement) -> Operation[None]:
    """Go by the map, if there is one, before shards are looked for that nobody has told this process of."""
    if not agreement.guesses:
        return
    stored = (yield (("GET", keys.map),)).reply()
    if stored is not None:
        agreement.accept(stored)


def _both(replies: list[Any]) -> tuple[bytes | None, list[tuple[bytes, float]]]:
    for reply in replies:
        if isinstance(reply, Exception):
            raise refusal(reply)
    raw, members = replies
    return raw, members


def _rules(members: Sequence[tuple[bytes, float]], head: int) -> list[tuple[Rule, int]] | None:
    """The rules with their seqs; None if one is none of this log's. One above the head: the record is older."""
    rules = []
    for member, score in members:
        rule = Rule.parse(member)
        if rule is None or not 0 < score <= head or score != int(score):
            return None
        rules.append((rule, int(score)))
    return rules
