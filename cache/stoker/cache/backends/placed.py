"""Where the keys of a namespace live, as this process knows it, and how it learns of a change: a part of `redis`.

The shards are in a `Space`. This module replaces the space when the namespace is resharded, and takes the shards'
reports.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from threading import Lock
from typing import Any

from stoker.cache import control, reshard, scan
from stoker.cache.backends.space import Space, resettling
from stoker.cache.caps import BanNews, ManyBans
from stoker.cache.errors import ConfigError
from stoker.cache.keys import ShardKeys
from stoker.cache.near import Near
from stoker.cache.options import CacheConfig
from stoker.cache.protocol import Shard
from stoker.cache.reshard import Change, Changed, Tidied
from stoker.cache.shards import Agreement, Map, Placement, Resharded
from stoker.cache.stats import Counters
from stoker.cache.wire import Operation

log = logging.getLogger(__name__)


class Placed:
    """What it needs of the backend is declared here.

    Attributes:
        space: Replaced as a whole.
    """

    default_shards = 1
    space: Space
    near: Near | None
    _config: CacheConfig
    _counters: Counters
    _on_event: Callable[[str, Mapping[str, Any]], None]

    def _begin_placed(self) -> None:
        self._settling = Lock()
        self._place(Placement(default=self.default_shards))

    @property
    def placement(self) -> Placement:
        """Where keys live."""
        return self.space.placement

    @property
    def shards(self) -> list[Shard]:
        """All shards, by their numbers."""
        return self.space.shards

    def stored_name(self, tenant_id: str | None, key: str) -> str:
        return self.space.shard_of(tenant_id, key).keys.entry(tenant_id, key).decode()

    def place(self, placement: Placement) -> None:
        if any(shard.view.control.raw for shard in self.shards):
            raise ConfigError(
                "num_shards",
                placement.num_shards,
                f"the cache is in use with {self.placement.num_shards}, and what it holds would not be found any more; "
                "enable sharding before the first read or write, or open a new namespace",
            )
        self._place(placement)

    def change(self, change: Change) -> Operation[Changed]:
        space = self.space
        changed = yield from self._change_map(space.shards[0].keys, space.agreement, change)
        self.settle(Resharded(space.agreement, changed.placement, changed.stored))
        return changed

    _change_map = staticmethod(reshard.change_map)
    _agree = staticmethod(control.agree)
    _learn = staticmethod(control.learn)

    @resettling
    def known(self) -> Operation[Space]:
        """The shards there are, by the map if this process was told nothing; it is not written if there is none."""
        yield from self._learn(self.space.shards[0].keys, self.space.agreement)
        return self.space

    def tidy(self, cursors: Mapping[str, str], batch: int) -> Operation[Tidied]:
        space = self.space
        at, scanned, gone = yield from scan.drop_strays(
            space.names, len(space.shards), cursors.get("", "0"), batch
        )
        return Tidied({"": at}, scanned, gone)

    def settle(self, news: Resharded) -> None:
        """Go by the placement that the namespace has now."""
        with self._settling:
            if self.space.agreement is news.agreement:  # else another thread was first
                self._place(news.placement)
                self.space.agreement.accept(news.stored)
                log.info(
                    "namespace %s has %d shards by now", self._config.namespace, news.placement.num_shards
                )

    def _place(self, placement: Placement) -> None:
        config = self._config
        wanted = Map(
            max_load_ms=round(config.max_load * 1000),
            boot_fence=config.boot_fence,
            near_bound_ms=round(config.near_bound * 1000),
        )
        agreement = Agreement(wanted, placement)
        self.space = Space(config.namespace, placement, agreement, self._make_shard)
        if self.near is not None:
            self.near.place(self.shards)

    def _make_shard(self, number: int, agreement: Agreement) -> Shard:
        keys = ShardKeys(self._config.namespace, number)
        return Shard(keys, agreement, partial(self._cold, number), partial(self._long, number))

    def _cold(self, shard: int, reason: str, incarnation: str) -> None:
        level = logging.INFO if reason == "missing" else logging.WARNING
        namespace = self._config.namespace
        what = (
            f"namespace {namespace}" if len(self.shards) == 1 else f"shard {shard} of namespace {namespace}"
        )
        log.log(level, "%s begins cold (%s): what was stored before is a miss", what, reason)
        facts = {"namespace": namespace, "shard": shard, "reason": reason, "incarnation": incarnation}
        self._on_event("cache.cold", facts)

    def _long(self, shard: int, news: BanNews) -> None:
        facts = {"namespace": self._config.namespace, "shard": shard, **asdict(news)}
        if isinstance(news, ManyBans):
            self._on_event("bans.many", facts)
            return
        self._counters.coalesced += 1
        log.warning(
            "tenant %s had %d live bans in namespace %s: all of it was invalidated instead; sweep more often",
            news.tenant_id,
            news.rules,
            self._config.namespace,
        )
        self._on_event("bans.coalesced", facts)

    def forked(self) -> None:
        """Begin with locks of one's own: in a forked child the parent's may be held for ever."""
        self._settling = Lock()
        for shard in self.shards:
            shard.forked()
        if self.near is not None:
            self.near.forked()
