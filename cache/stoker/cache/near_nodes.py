"""Where the copies of a cache come from: one channel to a server, or one to each node of a cluster, for the engines.

A thread for each: a node that cannot be reached is waited for in vain for seconds, and those that can should not be
left without a beat meanwhile. Channels of nodes end by themselves when nothing is listened to there any more.
"""

import weakref
from functools import partial

from stoker.cache import topology
from stoker.cache.backends.cluster import ClusterBackend
from stoker.cache.cluster import Router
from stoker.cache.cluster_map import slot_of
from stoker.cache.core import Core
from stoker.cache.near import Near
from stoker.cache.near_channel import Channel
from stoker.cache.near_stream import Stream
from stoker.cache.options import CacheConfig
from stoker.cache.parts import Node
from stoker.cache.protocol import Shard


def channel_of(cache: object, core: Core) -> "Channel | NodeChannels | None":
    """The channels of a cache's copies, if it is to have any; they end with the cache at the latest."""
    near = core.near
    if near is None:
        return None
    channel: Channel | NodeChannels
    if isinstance(core.backend, ClusterBackend):
        channel = NodeChannels(near, core.config, core.backend.router)
    else:
        channel = Channel(near, near.new_stream(), core.config)
        stream = channel.stream
        near.stream_of = lambda _: stream
    weakref.finalize(cache, channel.close)
    return channel


class NodeChannels:
    """The channels of one cache to nodes of a cluster: to those where its own reads find the shards."""

    def __init__(self, near: Near, config: CacheConfig, router: Router) -> None:
        self._near = near
        self._config = config
        self._router = router
        self._channels: dict[Node, Channel] = {}
        near.stream_of = self._stream_of

    def _stream_of(self, shard: Shard) -> Stream | None:
        node = self._node_of(shard)
        if node is None:
            return None
        channel = self._channels.get(node)
        if channel is None:  # of two threads that make one, one's is used, and the other's never begins
            stream = self._near.new_stream(partial(self._is_at, node))
            made = Channel(self._near, stream, topology.config_of(self._config, node))
            channel = self._channels.setdefault(node, made)
        return channel.stream

    def _node_of(self, shard: Shard) -> Node | None:
        layout = self._router.layout
        return None if layout is None else layout.node_of(slot_of(shard))

    def _is_at(self, node: Node, shard: Shard) -> bool:
        return self._node_of(shard) == node

    @property
    def all(self) -> list[Channel]:
        """Those that there are, also where nothing is listened to any more."""
        return list(self._channels.values())

    def close(self) -> None:
        """End all threads and connections; who reads afterwards begins anew."""
        for channel in self.all:
            channel.end()
        for channel in self.all:
            channel.close()
