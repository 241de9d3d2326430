"""The server-side half of the protocol: one Lua file a step, each opening with its keys, arguments and answer.

A line `-- part.lua` in a body asks for that file there; `control.lua` is put before every body that does not. Only
`stoker.cache.protocol` runs these.
"""

import re
from dataclasses import dataclass, field
from hashlib import sha1
from importlib.resources import files

_PART = re.compile(r"^-- (\w+)\.lua$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script as the server takes it: by its SHA-1, or whole where the server does not know it yet."""

    name: str
    source: bytes
    sha: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", sha1(self.source, usedforsecurity=False).hexdigest().encode())


def _load(name: str) -> Script:
    shebang, _, body = _text(name).partition("\n")
    if "control" not in _PART.findall(body):
        body = f"-- control.lua\n{body}"
    return Script(name, f"{shebang}\n{_PART.sub(lambda found: _text(found[1]), body)}".encode())


def _text(name: str) -> str:
    return files(__name__).joinpath(f"{name}.lua").read_text(encoding="utf-8")


ADMIT = _load("admit")
ASK = _load("ask")
BAN = _load("ban")
BEGIN = _load("begin")
CHARTER = _load("charter")
CLOSE = _load("close")
DELETE = _load("delete")
DROP = _load("drop")
END = _load("end")
DROP_PAGE = _load("drop_page")
EXPECT = _load("expect")
FENCE = _load("fence")
FILL = _load("fill")
FILL_BATCH = _load("fill_batch")
FILL_MANY = _load("fill_many")
LOOK = _load("look")
NARROW = _load("narrow")
OPEN = _load("open")
PRUNE = _load("prune")
RELEASE = _load("release")
RENEW = _load("renew")
RETIRE = _load("retire")
SET = _load("set")
VOUCH = _load("vouch")
