"""Flower with safe defaults: a password, this machine only, nothing but looking. Applied by `flowerconfig`.

Progress is text in the `result` of a running task, so that column is shown.
"""

import os
from typing import Any

from stoker.cache import ConfigError
from stoker.config import Settings

COLUMNS = "name,uuid,state,result,received,started,runtime,worker"
_OPENS_THE_API = "FLOWER_UNAUTHENTICATED_API"


def options(settings: Settings) -> dict[str, Any]:
    """Flower's options.

    Raises:
        ConfigError: There is no password, or the environment switches Flower's own protection off.
    """
    flower = settings.flower
    if flower.password is None:
        remedy = (
            "choose the password that Flower asks for; in a file named stoker_flower__password it is safest"
        )
        raise ConfigError("STOKER_FLOWER__PASSWORD", None, remedy)
    if os.environ.get(_OPENS_THE_API):
        raise ConfigError(
            _OPENS_THE_API, os.environ[_OPENS_THE_API], "unset it: it opens Flower's API to everybody"
        )
    return {
        "address": flower.host,
        "port": flower.port,
        "basic_auth": [f"{flower.user}:{flower.password.get_secret_value()}"],
        "read_only": flower.read_only,
        "max_tasks": flower.max_tasks,
        "tasks_columns": COLUMNS,
    }
