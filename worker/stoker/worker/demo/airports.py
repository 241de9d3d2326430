"""The demo's source of truth: the world's airports in a SQLite database, each row with a version.

Knows nothing of the cache. The rows come from the `airportsdata` package, about 28,000 of them.
"""

import random
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import airportsdata

_SCHEMA = """
CREATE TABLE airport (
    number INTEGER PRIMARY KEY,  -- from 0 without gaps: its place on the board
    icao TEXT NOT NULL UNIQUE,
    country TEXT NOT NULL,
    region TEXT NOT NULL,
    iata TEXT NOT NULL, name TEXT NOT NULL, city TEXT NOT NULL, tz TEXT NOT NULL,
    elevation REAL NOT NULL, lat REAL NOT NULL, lon REAL NOT NULL,
    version INTEGER NOT NULL DEFAULT 1  -- grows by one with every change
);
CREATE INDEX airport_of_country ON airport (country, region);
"""
_INSERT = """
INSERT INTO airport (number, icao, country, region, iata, name, city, tz, elevation, lat, lon)
VALUES (:number, :icao, :country, :subd, :iata, :name, :city, :tz, :elevation, :lat, :lon)
"""


class Airport(NamedTuple):
    """What the demo's processes must know of a row to ask for it."""

    number: int
    icao: str
    country: str
    region: str

    @property
    def key(self) -> str:
        return f"airport:{self.icao}"


def create(path: Path) -> None:
    """Write the database; every row has version 1."""
    rows = airportsdata.load("ICAO").values()
    with closing(connect(path)) as db, db:
        db.execute("PRAGMA journal_mode = WAL")  # readers go on while the producer writes
        db.executescript(_SCHEMA)
        db.executemany(_INSERT, (dict(row, number=number) for number, row in enumerate(rows)))


def connect(path: Path) -> sqlite3.Connection:
    """Open the database; it waits up to 5 s for another's transaction."""
    db = sqlite3.connect(path, timeout=5)
    db.row_factory = sqlite3.Row
    return db


def every(db: sqlite3.Connection) -> list[Airport]:
    """All airports by number."""
    rows = db.execute("SELECT number, icao, country, region FROM airport ORDER BY number")
    return [Airport(*row) for row in rows]


def read(db: sqlite3.Connection, icaos: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of those codes that exist, as of one moment."""
    holes = ",".join("?" * len(icaos))
    return [dict(row) for row in db.execute(f"SELECT * FROM airport WHERE icao IN ({holes})", icaos)]


def change(db: sqlite3.Connection, condition: str, values: Sequence[str]) -> dict[int, int]:
    """Give every row that meets the condition its next version, in one transaction; return number -> version."""
    with db:
        rows = db.execute(
            f"UPDATE airport SET version = version + 1 WHERE {condition} RETURNING number, version", values
        )
        return dict(rows.fetchall())


class Traffic:
    """Which airports are asked for and changed: a few most of the time, each of the others now and then.

    Processes with the same seed have the same favourites.
    """

    def __init__(self, airports: Sequence[Airport], seed: int) -> None:
        self._order = list(airports)
        random.Random(seed).shuffle(self._order)

    def pick(self, rng: random.Random) -> Airport:
        """One airport; nine times of ten one of some hundred favourites."""
        if rng.random() < 0.1:
            return rng.choice(self._order)
        return self._order[int(rng.expovariate(1 / 40)) % len(self._order)]
