"""Servers and Sentinels that speak TLS only, for caches that are called and awaited, copies, and Celery's client."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

from stoker.cache import Cache, CacheConfig, InvalidationNotAcknowledged
from stoker.tasks import broker_url
from stoker.worker.embedded import free_port
from stoker.worker.processes import Processes
from tests.cache.awaited import Awaited
from tests.waiting import wait_until

REDIS = shutil.which("redis-server")
OPENSSL = shutil.which("openssl")
NAME = "mymaster"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(REDIS is None or OPENSSL is None, reason="no redis-server or openssl installed"),
]


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Of 127.0.0.1, signed by itself."""
    path, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(path), *subject]
    subprocess.run([str(OPENSSL), *made], check=True, capture_output=True)
    return path


@pytest.fixture
def url(certificate: Path) -> Iterator[str]:
    options = {
        "port": "0",
        "tls-cert-file": str(certificate),
        "tls-key-file": str(certificate.with_name("key.pem")),
        "tls-ca-cert-file": str(certificate),
        "tls-auth-clients": "no",
        "tls-replication": "yes",
    }
    with Processes() as processes:
        server, sentinel = free_port(), free_port()
        given = options | {"tls-port": str(server), "dir": str(processes.directory), "save": ""}
        words = [word for name, value in given.items() for word in (f"--{name}", value)]
        processes.start("server", [str(REDIS), *words])
        given = options | {"tls-port": str(sentinel), "dir": str(processes.directory)}
        lines = [f"{name} {value}" for name, value in given.items()]
        conf = processes.directory / "sentinel.conf"
        conf.write_text("\n".join([*lines, f"sentinel monitor {NAME} 127.0.0.1 {server} 1\n"]))
        child = processes.start("sentinel", [str(REDIS), str(conf), "--sentinel"])
        processes.wait_until(lambda: "+monitor" in child.log.read_text(), child, 10)
        yield f"rediss+sentinel://127.0.0.1:{sentinel}/{NAME}"


def config(url: str) -> CacheConfig:
    return CacheConfig(backend="redis", redis_url=url, near_size=10)


def test_a_cache_and_celery_find_the_primary_by_tls(url: str, certificate: Path) -> None:
    trusting = f"{url}?ssl_ca_certs={certificate}"
    with Cache(config(trusting)) as cache:
        wait_until(cache.ping)
        assert cache.set("k", 1)
        wait_until(lambda: cache.get("k") == 1 and cache.explain("k")["near"] == "served")
        assert cache._client.ping()
    awaiting = Awaited(config(trusting))
    assert awaiting.get("k") == 1
    awaiting.end()
    with Celery(set_as_current=False) as app:
        app.conf.update(
            broker_url=broker_url.for_celery(trusting),
            broker_transport_options=broker_url.transport_options(trusting, 2, 5),
            broker_use_ssl=broker_url.use_ssl(trusting),
        )
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1)


def test_a_certificate_that_nobody_vouches_for_is_refused(url: str) -> None:
    with (
        Cache(config(url)) as cache,
        pytest.raises(InvalidationNotAcknowledged, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        cache.delete("k")
