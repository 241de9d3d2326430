"""`stoker up`: the whole of Stoker on one machine, for developing: servers, worker, beat and Flower as one.

Cache and broker are embedded servers, each unless its URL is set. Every process writes to a log in one temporary
directory; one that ends stops all. What a process does is said elsewhere: here they are only started, in
order, and waited for. Not for production, where each has its own supervisor.
"""

import base64
import os
import secrets
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field

from celery import Celery
from rich.console import Console

from stoker.cache import ConfigError
from stoker.cache.options import masked_url
from stoker.config import Settings
from stoker.tasks import broker_url
from stoker.worker import commands
from stoker.worker.embedded import free_port, start_server
from stoker.worker.embedded_cluster import start_cluster
from stoker.worker.processes import ChildEnded, NotReady, Processes

GRACE_S = 10.0
"""What each process gets to end before it is killed."""
READY_WITHIN_S = 60.0
CONCURRENCY = 2
SHUTDOWN_TIMEOUT_S = 3
_LOOK_EVERY_S = 0.2


@dataclass(frozen=True, slots=True)
class Stack:
    """A running stack: where its parts are.

    Attributes:
        env: The variables with which another process takes part.
    """

    cache_url: str
    broker_url: str
    flower_url: str
    flower_user: str
    flower_password: str = field(repr=False)
    env: dict[str, str] = field(repr=False)


def start_stack(processes: Processes, settings: Settings, cluster: int = 0) -> Stack:
    """Start everything and return when the worker and beat answer a ping and Flower answers over HTTP.

    Args:
        processes: What ends it all; the caller's `with`.
        settings: As this process's environment says, which the children inherit. The URLs and Flower's host, port
            and password are taken where they are set.
        cluster: Nodes of a cluster that is started as the cache's server; 0: a single server.

    Raises:
        ConfigError: A cluster was asked for, and `cache_url` is set.
        ChildEnded: One of them has ended; NotReady: one was not ready after a minute.
    """
    if cluster and settings.cache_url:
        raise ConfigError(
            "STOKER_CACHE_URL", masked_url(settings.cache_url), "leave it out, or leave out --cluster"
        )
    if cluster:
        cache_url = start_cluster(processes, cluster).url
    else:
        cache_url = settings.cache_url or start_server(processes, "cache").url
    broker = settings.broker_url or start_server(processes, "broker").url
    env = {"STOKER_CACHE_URL": cache_url, "STOKER_BROKER_URL": broker}
    if cluster:
        env["STOKER_CACHE_CLUSTER"] = "true"
        settings = settings.model_copy(update={"cache_url": cache_url, "cache_cluster": True})
    stack = Stack(
        cache_url,
        broker,
        f"http://{settings.flower.host}:{_flower_port(settings)}",
        settings.flower.user,
        _flower_password(settings),
        env,
    )
    _start_celery(processes, settings, stack, {**os.environ, **env})
    return stack


def up(cluster: int = 0) -> int:
    """Run the stack until Ctrl-C, SIGTERM or SIGHUP; return the exit code of the command."""
    stop_on_signals()
    out, err = Console(soft_wrap=True, highlight=False), Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        with Processes(GRACE_S) as processes:
            settings = Settings()
            _show(out, settings, start_stack(processes, settings, cluster), processes)
            while True:
                processes.check()
                time.sleep(_LOOK_EVERY_S)
    except KeyboardInterrupt:
        out.print("Stopped.")
        return 0
    except (ChildEnded, NotReady) as error:
        err.print(f"stoker up: {error}", markup=False)
        return 1


def stop_on_signals() -> None:
    """Have SIGTERM and SIGHUP end this program as Ctrl-C does, and Ctrl-C do so in a shell's background too."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


def _start_celery(processes: Processes, settings: Settings, stack: Stack, env: Mapping[str, str]) -> None:
    node = f"stoker-{os.getpid()}"  # a broker that was given may have workers of its own
    concurrency = settings.worker.concurrency or CONCURRENCY
    worker_env = {**env, **commands.WORKER_ENV}
    if "shutdown_timeout" not in settings.worker.model_fields_set:
        worker_env["STOKER_WORKER__SHUTDOWN_TIMEOUT"] = str(SHUTDOWN_TIMEOUT_S)
    worker = processes.start(
        "worker", commands.worker(settings, name=node, concurrency=concurrency), worker_env
    )
    beat = processes.start("beat", commands.beat(settings, name=f"{node}-beat"), env)
    flower_env = {
        **env,
        "STOKER_FLOWER__PORT": stack.flower_url.rpartition(":")[2],
        "STOKER_FLOWER__PASSWORD": stack.flower_password,
    }
    flower = processes.start("flower", commands.flower(), flower_env)
    with Celery(set_as_current=False) as pinger:
        pinger.conf.update(
            broker_url=broker_url.for_celery(stack.broker_url),
            broker_transport_options=broker_url.transport_options(stack.broker_url, 2, 5),
            broker_use_ssl=broker_url.use_ssl(stack.broker_url),
        )
        processes.wait_until(lambda: _answers(pinger, node), worker, READY_WITHIN_S)
        processes.wait_until(lambda: _answers(pinger, f"{node}-beat"), beat, READY_WITHIN_S)
    processes.wait_until(lambda: _flower_answers(stack), flower, READY_WITHIN_S)


def _answers(pinger: Celery, node: str) -> bool:
    return bool(pinger.control.ping(destination=[f"{node}@{socket.gethostname()}"], timeout=0.3))


def _flower_answers(stack: Stack) -> bool:
    """Whether it lets us in: another program on that port would not know the password."""
    login = base64.b64encode(f"{stack.flower_user}:{stack.flower_password}".encode()).decode()
    request = urllib.request.Request(
        f"{stack.flower_url}/api/workers", headers={"Authorization": f"Basic {login}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _flower_port(settings: Settings) -> int:
    """The port that was asked for; any free one if none was."""
    asked = "port" in settings.flower.model_fields_set
    return settings.flower.port if asked and settings.flower.port else free_port()


def _flower_password(settings: Settings) -> str:
    chosen = settings.flower.password
    return secrets.token_urlsafe(12) if chosen is None else chosen.get_secret_value()


def _chosen_for_flower(settings: Settings, stack: Stack) -> dict[str, str]:
    """Where Flower is and how to log in, as far as the user's own settings do not say so."""
    port = int(stack.flower_url.rpartition(":")[2])
    chosen = {} if settings.flower.port == port else {"STOKER_FLOWER__PORT": str(port)}
    if settings.flower.password is None:
        chosen["STOKER_FLOWER__PASSWORD"] = stack.flower_password
    return chosen


def _show(out: Console, settings: Settings, stack: Stack, processes: Processes) -> None:
    login = f"user {stack.flower_user}"
    if settings.flower.password is None:  # else the user knows it
        login += f", password {stack.flower_password}"
    new = {"STOKER_CACHE_URL": settings.cache_url is None, "STOKER_BROKER_URL": settings.broker_url is None}
    chosen = _chosen_for_flower(settings, stack)
    lines = [
        "Stoker is up.",
        f"  cache   {masked_url(stack.cache_url)}",
        f"  broker  {masked_url(stack.broker_url)}",
        f"  Flower  {stack.flower_url}  {login}",
        f"  logs    {processes.directory}",
        "For your app:",
        *(f"  export {name}={value}" for name, value in stack.env.items() if new.get(name, True)),
        *(["For stoker doctor, beside these:"] if chosen else []),
        *(f"  export {name}={value}" for name, value in chosen.items()),
        "Ctrl-C stops everything.",
    ]
    out.print("\n".join(lines), markup=False)
