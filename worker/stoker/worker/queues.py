"""Which queues a worker serves. In production each queue has a worker of its own, so that an invalidation never waits
behind a warm; on a laptop one worker for all queues is fine."""

from collections.abc import Iterable

from stoker.cache import ConfigError
from stoker.config import Settings
from stoker.tasks import names


def queue_names(settings: Settings, wanted: Iterable[str] = ()) -> list[str]:
    """The queues' names on the broker, in the order wanted; all of them if none is named.

    Raises:
        ConfigError: There is no such queue.
    """
    chosen = list(wanted) or list(names.QUEUES)
    for name in chosen:
        if name not in names.QUEUES:
            raise ConfigError("queue", name, f"choose from {', '.join(names.QUEUES)}")
    return [names.queue(settings.namespace, name) for name in chosen]
