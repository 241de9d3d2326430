"""The transports over TLS, with a real server: answers larger than a TLS record, copies, and whoever is not trusted."""

import asyncio
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest

from stoker.cache import AsyncCache, Cache, CacheConfig
from stoker.worker import embedded
from stoker.worker.embedded import free_port, start_server
from stoker.worker.processes import ChildEnded, Processes
from tests.cache.conftest import How
from tests.cache.copied import copied

OPENSSL, REDIS = shutil.which("openssl"), shutil.which("redis-server")
_OURS = embedded._binary
LARGE = "x" * 200_000
"""More than one TLS record holds, and than is read at once."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that the server has signed itself, with its key beside it."""
    if OPENSSL is None:
        pytest.skip("no openssl to make a certificate with")
    made = tmp_path_factory.mktemp("tls") / "server.pem"
    command = [OPENSSL, "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(made), "-keyout", f"{made}.key"]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    return made


@pytest.fixture(scope="module")
def url(certificate: Path) -> Iterator[str]:
    """Of a server that speaks TLS; the embedded one, or else the system's."""
    port = 0

    def options() -> dict[str, str]:
        nonlocal port
        port = free_port()
        files = {"tls-cert-file": str(certificate), "tls-key-file": f"{certificate}.key"}
        return {"tls-port": str(port), "tls-auth-clients": "no", **files}

    with Processes() as processes, pytest.MonkeyPatch.context() as patch:
        binaries: list[Callable[[], str]] = [_OURS, *([partial(str, REDIS)] if REDIS else [])]
        for binary in binaries:
            patch.setattr(embedded, "_binary", binary)
            with suppress(ChildEnded):
                start_server(processes, "cache", options=options)
                yield f"rediss://127.0.0.1:{port}/0"
                return
        pytest.skip("neither the embedded server nor redis-server speaks TLS here")


@pytest.fixture
def config(url: str, certificate: Path, namespace: str) -> CacheConfig:
    trusting = f"{url}?ssl_ca_certs={quote(str(certificate))}"
    return CacheConfig(backend="redis", redis_url=trusting, namespace=namespace, compress_above=None)


def test_values_of_any_size_go_there_and_back(how: How, config: CacheConfig) -> None:
    cache = how(config)
    values = {f"k{n}": [n, "y" * n] for n in range(500)}
    assert cache.set("large", LARGE)
    assert cache.set_many(values)
    for _ in range(3):
        assert cache.get("large") == LARGE
        assert cache.get_many([*values, "large"]) == {**values, "large": LARGE}
    cache.invalidate_pattern("k*")
    assert cache.get_many([*values, "large"]) == {"large": LARGE}
    assert cache.stats().unavailable == 0


def test_tasks_share_a_connection_and_get_their_own_answers(config: CacheConfig) -> None:
    async def main() -> None:
        async with AsyncCache(config) as cache:
            values = {f"k{n}": str(n) * (1 + n % 7 * 3000) for n in range(100)}
            await asyncio.gather(*(cache.set(key, value) for key, value in values.items()))
            got = await asyncio.gather(*(cache.get(key) for key in values))
            assert dict(zip(values, got, strict=True)) == values

    asyncio.run(main())


def test_copies_are_kept_and_forgotten_over_tls(config: CacheConfig, namespace: str) -> None:
    near = CacheConfig(backend="redis", redis_url=config.redis_url, namespace=namespace, near_size=10)
    with Cache(near) as reader, Cache(config) as writer:
        writer.set("k", "old")
        copied(reader, "k")
        writer.set("k", "new", barrier=True)
        assert reader.get("k") == "new"


def test_a_server_that_nobody_vouches_for_is_not_talked_to(how: How, url: str, namespace: str) -> None:
    cache = how(CacheConfig(backend="redis", redis_url=url, namespace=namespace))
    assert not cache.ping()
    assert cache.get("k") is None
