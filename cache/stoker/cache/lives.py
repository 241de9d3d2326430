"""Which incarnations of the ban log rule now, for callers that want to notice a change. As in any other operation, a
shard without a good control record begins a new incarnation here."""

from collections.abc import Iterable
from dataclasses import dataclass

from stoker.cache.bans import View


@dataclass(frozen=True, slots=True)
class Lives:
    """What the control records say.

    Attributes:
        incarnations: Of each shard, in hex.
        servers: Ids of the server processes that may answer; empty where the boot fence is off.
    """

    incarnations: tuple[str, ...] = ()
    servers: frozenset[str] = frozenset()


def lives(views: Iterable[View]) -> Lives:
    """What these views, one of each shard, say."""
    controls = [view.control for view in views]
    servers = {boot.decode() for control in controls for boot in control.boots}
    own = {server for server in servers if server.isalnum()}  # those of drafts and hand-overs are marked
    return Lives(tuple(control.incarnation.hex() for control in controls), frozenset(own))
