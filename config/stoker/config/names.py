"""Which `STOKER_*` names there are, where they were found, and which one a misspelt name may have meant.

Names beginning `STOKER_TEST_` belong to the test-suite and are passed over.
"""

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pydantic_settings import BaseSettings, DotEnvSettingsSource

from stoker.cache import ConfigError

PREFIX = "STOKER_"
DELIMITER = "__"
ENV_FILE = ".env"
SECRETS_DIR = Path("/run/secrets")
_RESERVED = "STOKER_TEST_"


def variable(*path: str) -> str:
    """The environment variable of a setting: `variable("job", "lock_ttl")` is `STOKER_JOB__LOCK_TTL`."""
    return PREFIX + DELIMITER.join(path).upper()


def secrets_dir() -> Path:
    return Path(os.environ.get(variable("secrets_dir"), SECRETS_DIR))


def sources() -> dict[str, dict[str, str | None]]:
    """What each source holds of ours, by variable name, the strongest source first."""
    return {
        "environment": _ours(os.environ),
        ".env": _ours(DotEnvSettingsSource(BaseSettings, env_file=ENV_FILE).env_vars),
        "secrets": _ours(dict.fromkeys(_secret_files())),
    }


def unknown(known: Iterable[str]) -> Iterator[ConfigError]:
    """One error for each name in a source that is no setting, naming the nearest that is."""
    names = tuple(known)
    for source, found in sources().items():
        for name in found:
            if name not in names:
                yield ConfigError(name, f"({source})", f"there is no such setting{_nearest(name, names)}")


def unknown_arguments(given: Iterable[str], known: Iterable[str]) -> Iterator[ConfigError]:
    names = tuple(known)
    for name in given:
        if name not in names:
            yield ConfigError(name, "(argument)", f"there is no such setting{_nearest(name, names)}")


def _nearest(name: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else "; `stoker config` lists them all"


def _ours(found: Mapping[str, str | None]) -> dict[str, str | None]:
    upper = {name.upper(): value for name, value in found.items() if value != ""}
    return {n: v for n, v in upper.items() if n.startswith(PREFIX) and not n.startswith(_RESERVED)}


def _secret_files() -> Iterator[str]:
    directory = secrets_dir()
    if directory.is_dir():
        yield from (entry.name for entry in directory.iterdir() if entry.is_file())
