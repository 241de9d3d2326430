"""After a cold start: the plan that warms what was hot before, and the rule that starts it.

A plan like any other, so its keys are loaded within what their loaders allow, hottest first, and `stoker plans` shows
it. `STOKER_HOT__REPLAY=0` turns it off.
"""

from collections.abc import Iterator

from stoker.cache.loaders import default_registry
from stoker.tasks import runtime
from stoker.tasks.actions import Warm
from stoker.tasks.events import COLD, Event
from stoker.tasks.hot_keys import life_of
from stoker.tasks.hot_snapshots import HotSnapshot
from stoker.tasks.plans import Pair, warm_plan
from stoker.tasks.rules import on_event

REPLAY = "stoker.replay"


@warm_plan(REPLAY, priority=9)
def replay() -> Iterator[Pair]:
    """The keys of the last snapshot before the cold start that a loader of this worker can load."""
    snapshot = _before_the_cold_start()
    for tenant, key in snapshot.keys if snapshot is not None else ():
        if default_registry.find(key) is not None:
            yield tenant, key


@on_event(COLD)
def replay_when_cold(event: Event) -> Warm | None:  # noqa: ARG001 - what it says of the start does not matter
    """Warm what was hot, unless the cache was cold from the first: then there is nothing to replay."""
    return Warm(plan=REPLAY) if is_due() else None


def is_due() -> bool:
    """Whether something was hot in an earlier life of the cache that this one is to have as well."""
    return _before_the_cold_start() is not None


def _before_the_cold_start() -> HotSnapshot | None:
    here = runtime.current()
    if not here.settings.hot.replay:
        return None
    return here.hot_snapshots.before(life_of(here.cache))
