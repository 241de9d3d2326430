"""`stoker warm`, `sweep` and `evict`: an operator has workers do it now, and watches."""

import json
import sys
from typing import Annotated

import typer
from rich.console import Console

from stoker.tasks import JobHandle, send
from stoker.worker import jobs_view

NoWait = Annotated[bool, typer.Option("--no-wait", help="Do not wait until the job has ended.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the job as JSON.")]


def warm(
    keys: Annotated[
        list[str],
        typer.Argument(metavar="KEY...", help="Keys; '-': read them from standard input, one a line."),
    ],
    tenant: Annotated[str | None, typer.Option(help="The tenant; the shared key space if left out.")] = None,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Have workers load keys by their registered loaders, those that are fresh left out."""
    if keys == ["-"]:
        keys = [line.rstrip("\n") for line in sys.stdin if line.strip()]
    _watch(send.warm(keys, tenant), no_wait, as_json)


def sweep(no_wait: NoWait = False, as_json: AsJson = False) -> None:
    """Have a worker delete what is invalidated, which gives its memory back."""
    _watch(send.sweep(), no_wait, as_json)


def evict(
    target_bytes: Annotated[
        int | None,
        typer.Option(min=0, help="Free memory until so many bytes are in use; to the low mark if left out."),
    ] = None,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Have a worker make room, by dropping first what costs least to load again."""
    _watch(send.evict(target_bytes), no_wait, as_json)


def _watch(job: JobHandle, no_wait: bool, as_json: bool) -> None:
    try:
        status = job.status() if no_wait else jobs_view.follow(job)
    except KeyboardInterrupt:
        typer.echo(f"job {job.id} goes on; to stop it:  stoker jobs --abort {job.id}", err=True)
        raise typer.Exit(130) from None
    if as_json:
        typer.echo(json.dumps(jobs_view.as_json(status), default=str, indent=2))
    else:
        Console().print(f"job {job.id} is {status.state}" if no_wait else jobs_view.detail(status))
    raise typer.Exit(0 if no_wait or status.state == "succeeded" else 1)
