"""From stored bytes to the values that may be served, for `redis`; usually by one look at the header.

It holds no rule: whatever is not the plain case goes to `protocol.Shard.judge`.
"""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from stoker.cache import entry
from stoker.cache.backends import Values
from stoker.cache.bans import View
from stoker.cache.codec import MSGPACK, Codec, Undecodable
from stoker.cache.flight import Hit
from stoker.cache.protocol import Found, Name, Shard
from stoker.cache.stats import Counters

log = logging.getLogger(__name__)
_AS_A_RULE = entry.beginning(MSGPACK, 0)
_NOWHERE = 2**62
_glance, _outline, _HEADER_BYTES = entry.glance, entry.outline, entry.HEADER_BYTES


class Reading:
    """Reads entries of one cache."""

    def __init__(self, codec: Codec, counters: Counters) -> None:
        self._codec = codec
        self._counters = counters
        self._latest: tuple[View | None, bytes, int] = None, b"", _NOWHERE
        """Of an entry that was read: how it begins, and where by this view its payload is."""

    def one(self, shard: Shard, view: View, name: Name, blob: bytes, type: Any) -> Hit | None:
        """What is stored under the name, if the view lets it live."""
        try:
            begin, soft_ms, hard_ms, load_us, size = _glance(blob)
            of, known, at = self._latest
            if begin != known or view is not of:
                at = _payload_at(view, begin)
                self._latest = view, begin, at
            if len(blob) - at == size <= self._codec.max_bytes and (
                at == _HEADER_BYTES or blob[_HEADER_BYTES:at].isascii()
            ):
                value = self._codec.decoder(type)(blob[at:])
                now = time.time_ns() // 1_000_000
                return Hit(value, 0 < soft_ms <= now, hard_ms - now if hard_ms else math.inf, load_us)
        except Exception:  # what is wrong, the careful way says
            pass
        return self.hit(shard.judge(view, name, blob), type)

    def values(
        self,
        shard: Shard,
        view: View,
        tenant_id: str | None,
        keys: Sequence[str],
        blobs: Sequence[bytes | None],
        type: Any,
    ) -> Values:
        """As `one` of each key, for who wants no more than the values: it has to be quick.

        Nearly all can be served after one look at their header, see `_payload_at`. Whatever is different in any way
        is judged and decoded with all care.
        """
        values: dict[str, Any] = {}
        softs: list[int] = []
        decode, most = self._codec.decoder(type), self._codec.max_bytes
        outline, header_bytes = _outline, _HEADER_BYTES
        known, at, untagged = b"", _NOWHERE, 0
        for key, blob in zip(keys, blobs, strict=True):
            if blob is None:
                continue
            try:
                begin, soft_ms, size = outline(blob)
                if begin != known:
                    known, at = begin, _payload_at(view, begin)
                    untagged = most if at == header_bytes else 0  # so long without a look at tags
                payload = blob[at:]
                if len(payload) == size and (
                    size <= untagged or (size <= most and blob[header_bytes:at].isascii())
                ):
                    values[key] = decode(payload)
                    if soft_ms:
                        softs.append(soft_ms)
                    continue
            except Exception:  # what is wrong, the careful way says
                pass
            found = shard.judge(view, (tenant_id, key), blob)
            hit = self.hit(found, type)
            if found is not None and hit is not None:
                values[key] = hit.value
                softs.append(found.meta.soft_ms)
        if not softs:
            return Values(values, 0)
        now = now_ms()
        return Values(values, sum(0 < soft_ms <= now for soft_ms in softs))

    def hit(self, found: Found | None, type: Any) -> Hit | None:
        if found is None:
            return None
        meta, blob = found.meta, found.blob
        try:
            value = self._codec.decode(meta.codec, meta.flags, memoryview(blob)[meta.payload_at :], type)
        except Undecodable as error:
            self._counters.undecodable += 1
            log.debug("an entry could not be decoded: %s", error)
            return None
        now = now_ms()
        left_ms = meta.hard_ms - now if meta.hard_ms else math.inf
        return Hit(value, 0 < meta.soft_ms <= now, left_ms, meta.load_us)


def _payload_at(view: View, begin: bytes) -> int:
    """Where the payload is, if entries that begin so are of the ruling incarnation, and no ban is newer; none is asked.

    Else where no entry has one, so that its size is not what it should be.
    """
    beginning, tags_len, of, seq = entry.common(begin)
    control = view.control
    as_a_rule = (
        beginning == _AS_A_RULE and of == control.incarnation and view.bans.newest <= seq <= control.head
    )
    return _HEADER_BYTES + tags_len if as_a_rule else _NOWHERE


def values_of(hits: Mapping[str, Hit]) -> Values:
    """Hits by key, as who wants no more than the values has them."""
    return Values({key: hit.value for key, hit in hits.items()}, sum(hit.stale for hit in hits.values()))


def now_ms() -> int:
    """Unix time in milliseconds, as headers hold it."""
    return time.time_ns() // 1_000_000
