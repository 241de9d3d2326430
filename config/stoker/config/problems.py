"""From pydantic's words to ours: which variable is wrong, what it holds (masked), what to do."""

import json
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from pydantic import ValidationError
from pydantic_settings import SettingsError

from stoker.cache import ConfigError, sentinel_url
from stoker.cache.options import masked_url
from stoker.config import names

MASK = "***"


def from_validation(error: ValidationError) -> Iterator[ConfigError]:
    for found in error.errors(include_url=False):
        path = [part for part in found["loc"] if isinstance(part, str)]
        ours = found.get("ctx", {}).get("error")
        if isinstance(ours, ConfigError):  # a check of a whole model, which knows the setting that is wrong
            yield ConfigError(names.variable(*path, ours.field), ours.value, ours.remedy)
        else:
            value = shown(path[-1] if path else "", found["input"])
            yield ConfigError(names.variable(*path), value, found["msg"].removeprefix("Value error, "))


def from_source(error: SettingsError) -> ConfigError:
    """A group that was given as one variable which is not JSON."""
    field = re.search(r'field "(\w+)"', str(error))
    name = names.variable(field[1]) if field else names.PREFIX + "*"
    return ConfigError(
        name, "...", "is no valid JSON object; set its members one by one, such as STOKER_JOB__BATCH"
    )


def from_files(error: OSError | UnicodeDecodeError) -> ConfigError:
    """A file of settings or secrets that cannot be read."""
    remedy = f"holds a file that cannot be read as text ({error}); keep only Stoker's secrets there"
    return ConfigError(names.variable("secrets_dir"), str(names.secrets_dir()), remedy)


def shown(setting: str, value: object) -> object:
    """The value as it may be printed: secrets as `***`, URLs without their password, groups as `...`."""
    if "password" in setting:
        return MASK if value is not None else None
    if setting.endswith("url") and isinstance(value, str):
        return masked_url(value)
    if setting in ("warm_plans", "scheduled_invalidations"):
        return ", ".join(found.name for found in value) if isinstance(value, tuple) else "..."
    group = isinstance(value, dict) and setting != "shard_pins"
    return "..." if group or hasattr(value, "model_fields_set") else value


def split_list(text: str) -> object:
    """`a, b` or `["a", "b"]` as a list."""
    if text.lstrip().startswith("["):
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"is no valid JSON list ({error}); a comma list does too") from None
    return [part.strip() for part in text.split(",") if part.strip()]


def check_server_url(url: str) -> None:
    remedy = "start it with redis:// or rediss://, such as redis://localhost:6380/0"
    if sentinel_url.is_sentinel(url):
        try:
            sentinel_url.parse(url)
        except ValueError as error:
            raise ValueError(f"{error}, such as {sentinel_url.EXAMPLE}") from None
        return
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("redis", "rediss") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise ValueError(remedy)
