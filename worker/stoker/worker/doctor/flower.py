"""Whether Flower answers to its password, and to nobody without."""

import ipaddress
import urllib.error
import urllib.request
from collections.abc import Iterator

from stoker.worker import health
from stoker.worker.doctor.check import Finding, error, note, ok, warning
from stoker.worker.doctor.system import System

ANSWERS_WITHIN_S = 2.0
_OPEN_PATHS = ("/api/workers", "/")
_HERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}


def check(system: System) -> Iterator[Finding]:
    flower = system.settings.flower
    if flower.port == 0:
        yield note("STOKER_FLOWER__PORT is 0: nobody knows where Flower listens")
        return
    root = f"http://{_HERE.get(flower.host, flower.host)}:{flower.port}"
    try:
        opened = [path for path in _OPEN_PATHS if _status(root + path) < 400]
    except OSError as failure:
        yield _absent(system, root, failure)
        return
    if opened:
        yield error(
            f"Flower at {root} answers everybody, without a password ({', '.join(opened)})",
            "it was started without `basic_auth`, or FLOWER_UNAUTHENTICATED_API is set",
            "unset FLOWER_UNAUTHENTICATED_API, set STOKER_FLOWER__PASSWORD and start it as `stoker flower`",
        )
    elif flower.password is None:
        yield note(
            f"Flower at {root} asks for a password", "STOKER_FLOWER__PASSWORD is not set here to try it"
        )
    else:
        yield from _let_in(system, root)
    if not _loopback(flower.host) and not flower.read_only:
        yield warning(
            f"Flower listens on {flower.host} and may control workers",
            "STOKER_FLOWER__READ_ONLY is false",
            "STOKER_FLOWER__HOST=127.0.0.1, or STOKER_FLOWER__READ_ONLY=true",
        )


def _status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=ANSWERS_WITHIN_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code


def _absent(system: System, root: str, failure: OSError) -> Finding:
    told = f"no Flower answers at {root}: {getattr(failure, 'reason', failure)}"
    if system.settings.flower.password is None:
        return note(
            told,
            "it is not needed, and STOKER_FLOWER__PASSWORD is not set",
            "stoker flower; or, if it runs elsewhere, set STOKER_FLOWER__HOST and STOKER_FLOWER__PORT (`stoker up` "
            "prints what to set)",
        )
    return warning(
        told,
        "it does not run, hangs, or listens elsewhere",
        "stoker flower; or correct STOKER_FLOWER__HOST and STOKER_FLOWER__PORT",
    )


def _let_in(system: System, root: str) -> Iterator[Finding]:
    try:
        health.check_flower(system.settings)
    except health.Unhealthy as failure:
        yield error(
            str(failure),
            "it has another password than this process, or does not reach the broker",
            "give it the same STOKER_FLOWER__USER, STOKER_FLOWER__PASSWORD and STOKER_BROKER_URL, and restart it",
        )
    else:
        yield ok(f"Flower at {root} answers to its password only, and reaches the broker")


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
