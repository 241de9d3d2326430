"""The demo's loader: workers import it by name (`STOKER_LOADERS`), readers and the producer import it too.

Reads the database that the environment variable `AIRPORTS_DB` names, like any app that knows its database.
"""

import os
import random
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

from stoker.cache import LoadKey, loader
from stoker.worker.demo import airports

DATABASE = "AIRPORTS_DB"
TTL_S = 600
SLOWED_BY_S = 0.0
"""Longest pause between reading the rows and returning them. The slow readers raise it in their own processes."""

_open = threading.local()


@loader("airport:{icao}", many=True, ttl=TTL_S, tags=["airports"])
def load_airports(keys: list[LoadKey]) -> dict[str, dict[str, Any]]:
    """Airports by their keys. One of another country than the tenant is not that tenant's to see."""
    rows = airports.read(database(), [key.args["icao"] for key in keys])
    by_icao = {row["icao"]: row for row in rows}
    time.sleep(random.uniform(0, SLOWED_BY_S))
    answers = ((key, by_icao.get(key.args["icao"])) for key in keys)
    return {key.key: row for key, row in answers if row is not None and row["country"] == key.tenant_id}


def database() -> sqlite3.Connection:
    """This thread's connection; opened at first use, hence after a worker has forked."""
    if not hasattr(_open, "db"):
        _open.db = airports.connect(Path(os.environ[DATABASE]))
    connection: sqlite3.Connection = _open.db
    return connection
