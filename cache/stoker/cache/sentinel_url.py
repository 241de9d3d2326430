"""URLs of a primary by the name that its Sentinels have for it, and the plain URLs that are made of one.

    redis+sentinel://[user:password@]host[:26379][,host[:26379]...]/name[/database][?option=value&...]

`rediss+sentinel` is for servers and Sentinels that speak TLS. User and password are the server's; the Sentinels' are
the options `sentinel_username` and `sentinel_password`. Other options are redis-py's, such as `ssl_ca_certs`, for both.
Knows nothing else, connects to nobody, and may be imported by everything.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

SCHEMES = ("redis+sentinel", "rediss+sentinel")
EXAMPLE = "redis+sentinel://host1:26379,host2:26379/mymaster/0"
DEFAULT_PORT = 26379
_NAME = re.compile(r"[A-Za-z0-9._-]+")


class Address(NamedTuple):
    """Where a server or Sentinel listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class SentinelUrl:
    """Such a URL, taken apart.

    Attributes:
        secure: Whether servers and Sentinels speak TLS.
        credentials: User and password for the server, as in a URL, with `@`; or empty.
        sentinel_credentials: The same for the Sentinels.
        options: The query that is for servers and Sentinels, with `?`; or empty.
    """

    sentinels: tuple[Address, ...]
    name: str
    database: int
    secure: bool
    credentials: str
    sentinel_credentials: str
    options: str

    def server(self, address: Address) -> str:
        """The URL of a server of this group."""
        return f"{self._scheme}://{self.credentials}{address}/{self.database}{self.options}"

    def sentinel(self, address: Address) -> str:
        """The URL of one of the Sentinels."""
        return f"{self._scheme}://{self.sentinel_credentials}{address}{self.options}"

    @property
    def _scheme(self) -> str:
        return "rediss" if self.secure else "redis"


def is_sentinel(url: str | None) -> bool:
    """Whether a URL means to be one of these."""
    return url is not None and url.partition("://")[0].lower() in SCHEMES


def parse(url: str) -> SentinelUrl:
    """Take a URL apart.

    Raises:
        ValueError: It is none of these; the text says what is wrong with it, and shows nothing of it.
    """
    if not is_sentinel(url):
        raise ValueError(f"start it with {SCHEMES[0]}:// or {SCHEMES[1]}://")
    scheme, _, rest = url.partition("://")
    rest, _, query = rest.partition("?")
    netloc, _, path = rest.partition("/")  # `urlsplit` takes several hosts for a wrong one, if one is IPv6
    credentials, at, hosts = netloc.rpartition("@")
    name, _, database = path.strip("/").partition("/")
    if not _NAME.fullmatch(unquote(name)):
        raise ValueError("name the primary after the Sentinels, by the name that they monitor it under")
    if database and not database.isdecimal():
        raise ValueError("a database is a number")
    options = dict(parse_qsl(query, keep_blank_values=True))
    user, password = options.pop("sentinel_username", ""), options.pop("sentinel_password", "")
    return SentinelUrl(
        sentinels=tuple(_address(host) for host in hosts.split(",")),
        name=unquote(name),
        database=int(database or 0),
        secure=scheme.lower() == SCHEMES[1],
        credentials=credentials + at,
        sentinel_credentials=f"{quote(user, '')}:{quote(password, '')}@" if user or password else "",
        options=f"?{urlencode(options)}" if options else "",
    )


def _address(host: str) -> Address:
    parts = urlsplit(f"//{host}")
    try:
        port = parts.port
    except ValueError:
        port = 0
    if not parts.hostname or port == 0:
        raise ValueError("name Sentinels as host:port, with commas between them")
    return Address(parts.hostname, port or DEFAULT_PORT)
