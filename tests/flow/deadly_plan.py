"""A warm plan that kills whoever runs it, for the worker of one test."""

import os
import signal
from collections.abc import Iterator

from stoker.tasks import warm_plan


@warm_plan("deadly")
def deadly() -> Iterator[str]:
    yield from (f"slow:{number}" for number in range(40))
    os.kill(os.getpid(), signal.SIGKILL)
