"""`stoker reshard`: an operator moves keys to other shards. What that means is in `stoker.cache.reshard`."""

from typing import Annotated

import typer

from stoker.config import Settings
from stoker.tasks import send
from stoker.worker.terminal import counted


def reshard(
    num_shards: Annotated[
        int | None, typer.Option(metavar="N", help="Shards that keys are spread over from now on; 1 to 1024.")
    ] = None,
    pin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TENANT=SHARD", help="Put all keys of a tenant into one shard; may be repeated."
        ),
    ] = None,
    unpin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TENANT", help="Spread the tenant's keys over all shards again; may be repeated."
        ),
    ] = None,
    function: Annotated[
        bool,
        typer.Option(
            "--function", help="Use the workers' STOKER_SHARD_KEY_FUNC instead of the present function."
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Change in which shards keys live. The whole namespace begins cold; hot keys are warmed again."""
    pins = dict(_pinned(one) for one in pin or ())
    if not yes:
        namespace = Settings().namespace
        typer.confirm(
            f"All that namespace {namespace} holds will be misses, to be loaded again. Go on?", abort=True
        )
    job = send.reshard(num_shards, pin=pins, unpin=unpin or (), function=function)
    typer.echo(f"the change is job {job.id}")
    report = job.wait().report
    typer.echo(
        f"{counted(report['num_shards'], 'shard')}, pins: {_shown(report['pins'])}; "
        + ("as it was before" if report["before"] is None else f"there were {report['before']}")
        + f"; {counted(report['unlinked'], 'key')} unlinked, of shards that are no more"
    )


def _pinned(text: str) -> tuple[str, int]:
    tenant, equals, shard = text.rpartition("=")
    if not equals or not tenant or not shard.isdecimal():
        raise typer.BadParameter(f"{text!r}: write TENANT=SHARD, such as --pin acme=3")
    return tenant, int(shard)


def _shown(pins: dict[str, int]) -> str:
    return ", ".join(f"{tenant}={shard}" for tenant, shard in pins.items()) or "none"
