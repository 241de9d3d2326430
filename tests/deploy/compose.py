"""docker-compose.yml as Compose reads it: anchors merged, variables filled in. Nothing here starts anything."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
SECRET = "stoker_flower__password"
SECRETS_DIR = "/run/secrets"  # where Compose puts them in a container

_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<rest>[^}]*))?\}")
_BYTES = {"k": 2**10, "m": 2**20, "g": 2**30}


@dataclass(frozen=True, slots=True)
class Service:
    """One service; `definition` is what the file says of it."""

    name: str
    definition: dict[str, Any]

    @property
    def command(self) -> list[str]:
        return [str(word) for word in self.definition["command"]]

    @property
    def environment(self) -> dict[str, str]:
        """What `environment` sets, as text."""
        return {name: str(value) for name, value in self.definition.get("environment", {}).items()}

    @property
    def question(self) -> list[str]:
        """The command of the health check."""
        how, *command = self.definition["healthcheck"]["test"]
        assert how == "CMD", f"{self.name}: no shell is needed to ask"
        return [str(word) for word in command]

    @property
    def is_stoker(self) -> bool:
        """Whether it runs Stoker's image, rather than a server's."""
        return "build" in self.definition

    @property
    def is_server(self) -> bool:
        """Whether it is the cache's server or the broker."""
        return "valkey" in self.definition["image"]

    @property
    def is_worker(self) -> bool:
        return self.is_stoker and self.command[0] == "worker"

    def seconds(self, *path: str) -> float:
        """A duration, such as `seconds("healthcheck", "timeout")`."""
        value: Any = self.definition
        for step in path:
            value = value[step]
        assert isinstance(value, str)
        assert value.endswith("s"), f"{self.name}: {'.'.join(path)} is not in seconds"
        return float(value.removesuffix("s"))

    def option(self, name: str) -> str:
        """What follows an option in the command."""
        return self.command[self.command.index(name) + 1]


def read(variables: Mapping[str, str]) -> dict[str, Any]:
    """The file, with `${…}` filled in from `variables`.

    Raises:
        KeyError: One that must be set is not; the text is the message for the user.
    """
    document = YAML(typ="safe").load(FILE)
    return {str(name): _filled(value, variables) for name, value in document.items()}


def services() -> list[Service]:
    """Every service of the file."""
    found = read({"STOKER_SECRETS_DIR": "/nowhere"})["services"]
    return [Service(name, definition) for name, definition in found.items()]


def variables() -> set[str]:
    """The names that the file takes from `.env` or the shell."""
    return {found["name"] for found in _VARIABLE.finditer(FILE.read_text())}


def size(text: str) -> int:
    """Bytes: of `mem_limit: 512m`, and of Redis's `maxmemory 512mb`."""
    found = re.fullmatch(r"(\d+)([kmg])b?", text)
    assert found is not None, text
    return int(found[1]) * _BYTES[found[2]]


def directives(path: Path) -> dict[str, str]:
    """A server's configuration file."""
    lines = (line.strip() for line in path.read_text().splitlines())
    return dict(line.split(maxsplit=1) for line in lines if line and not line.startswith("#"))


def configuration(server: Service) -> Path:
    """The file that a server is mounted as its configuration."""
    [path] = [str(mount).split(":")[0] for mount in server.definition["volumes"] if ".conf:" in mount]
    return ROOT / path


def _filled(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _filled(inner, variables) for name, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, variables) for inner in value]
    return _VARIABLE.sub(lambda found: _value(found, variables), value) if isinstance(value, str) else value


def _value(found: re.Match[str], variables: Mapping[str, str]) -> str:
    if given := variables.get(found["name"], ""):
        return given
    if found["kind"] != "-":
        raise KeyError(f"{found['name']}: {found['rest']}")
    return found["rest"]
