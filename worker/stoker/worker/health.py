"""Whether one process answers now: `python -m stoker.worker.health node warm`, for containers and supervisors.

It asks the process itself, by way of the broker, and exits with 1 and one line of reason when no good answer comes.
It does not look at queues, jobs or the cache, and repairs nothing. One question costs about half a second of CPU,
nearly all of it Python starting; it is a module and not a `stoker` command because those start slower still.
"""

import argparse
import base64
import socket
import urllib.error
import urllib.request

from kombu.exceptions import OperationalError

from stoker.cache import ConfigError
from stoker.config import InvalidSettings, Settings
from stoker.tasks.app import app

NODE_ANSWERS_WITHIN_S = 5.0
FLOWER_ANSWERS_WITHIN_S = 5.0
METRICS_ANSWER_WITHIN_S = 5.0
_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}


class Unhealthy(Exception):
    """The process gave no good answer; the text says why."""


def check_node(name: str) -> None:
    """Ping the worker or beat of this name on this machine: its main loop must run and reach the broker.

    Raises:
        Unhealthy: It did not answer within 5 s, or the broker cannot be reached.
        ConfigError: There is no broker.
    """
    node = f"{name}@{socket.gethostname()}"
    try:
        answers = app.control.ping(destination=[node], timeout=NODE_ANSWERS_WITHIN_S)
    except OperationalError as error:
        raise Unhealthy(f"the broker cannot be asked: {error}") from error
    if not answers:
        raise Unhealthy(f"{node} gave no answer within {NODE_ANSWERS_WITHIN_S:g} s")


def check_flower(settings: Settings) -> None:
    """Have Flower count what is in the queues, for which it must reach the broker. Its own /healthcheck never fails.

    Raises:
        Unhealthy: It did not answer within 5 s, refused the password, or could not ask the broker.
    """
    flower = settings.flower
    url = f"http://{_EVERY_ADDRESS.get(flower.host, flower.host)}:{flower.port}/api/queues/length"
    password = "" if flower.password is None else flower.password.get_secret_value()
    login = base64.b64encode(f"{flower.user}:{password}".encode()).decode()
    request = urllib.request.Request(url, headers={"Authorization": f"Basic {login}"})
    try:
        with urllib.request.urlopen(request, timeout=FLOWER_ANSWERS_WITHIN_S):
            return  # any status that is not a success raises
    except urllib.error.HTTPError as error:
        with error:
            raise Unhealthy(f"Flower answered {error.code} {error.reason} at {url}") from error
    except OSError as error:
        raise Unhealthy(f"Flower cannot be asked at {url}: {error}") from error


def check_metrics(settings: Settings) -> None:
    """Have `stoker metrics` ask the servers.

    Raises:
        Unhealthy: It did not answer within 5 s.
    """
    metrics = settings.metrics
    url = f"http://{_EVERY_ADDRESS.get(metrics.host, metrics.host)}:{metrics.port}/metrics"
    try:
        with urllib.request.urlopen(url, timeout=METRICS_ANSWER_WITHIN_S):
            return
    except OSError as error:
        raise Unhealthy(f"metrics cannot be had at {url}: {error}") from error


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stoker.worker.health", description="Ask one process.")
    processes = parser.add_subparsers(dest="process", required=True)
    node = processes.add_parser("node", help="a worker or beat on this machine")
    node.add_argument("name", help="as given to `stoker worker --name`; beat's is stoker-beat")
    processes.add_parser("flower", help="the Flower that these settings start")
    processes.add_parser("metrics", help="the `stoker metrics` that these settings start")
    asked = parser.parse_args()
    try:
        if asked.process == "flower":
            check_flower(Settings())
        elif asked.process == "metrics":
            check_metrics(Settings())
        else:
            check_node(asked.name)
    except (Unhealthy, InvalidSettings, ConfigError) as reason:
        raise SystemExit(f"unhealthy: {reason}") from None


if __name__ == "__main__":
    main()
