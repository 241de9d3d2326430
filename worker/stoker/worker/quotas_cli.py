"""`stoker quotas`: how much of the cache's memory tenants may take. A change takes effect with the next look."""

import json
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stoker.cache import InvalidName
from stoker.cache.quotas import Amount, Quota, Quotas, amount
from stoker.cache.tenancy import tenant_field
from stoker.tasks import runtime
from stoker.worker.terminal import counted

quotas = typer.Typer(
    help="List what tenants may take of the cache's memory, and change it.", add_completion=False
)

Tenant = Annotated[str | None, typer.Argument(help="The tenant; or give --default.")]
Default = Annotated[bool, typer.Option("--default", help="The quota of every tenant without one of its own.")]


@quotas.callback(invoke_without_command=True)
def list_(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List what tenants may take of the cache's memory, and change it."""
    if context.invoked_subcommand is not None:
        return
    found = runtime.current().pressure.quotas()
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(found), indent=2))
    else:
        Console().print(_table(found))


@quotas.command(name="set")
def set_(
    tenant: Tenant = None,
    soft: Annotated[
        str | None, typer.Option(help="Above it the tenant's entries are evicted first: 15%, 200MB or bytes.")
    ] = None,
    hard: Annotated[str | None, typer.Option(help="Above it nothing more of the tenant is stored.")] = None,
    default: Default = False,
) -> None:
    """Give a tenant a quota, in bytes or as a share of what all entries may take. What is left out has no bound."""
    if soft is None and hard is None:
        raise typer.BadParameter("give --soft, --hard or both")
    quota = Quota(*(None if text is None else amount(text) for text in (soft, hard)))
    runtime.current().pressure.set_quota(_whose(tenant, default=default), quota)


@quotas.command()
def drop(tenant: Tenant = None, default: Default = False) -> None:
    """Remove a quota. The tenant then has the default; without a default there is no bound."""
    dropped = runtime.current().pressure.drop_quota(_whose(tenant, default=default))
    typer.echo("dropped" if dropped else "there was none")
    raise typer.Exit(0 if dropped else 1)


def _whose(tenant: str | None, *, default: bool) -> str | None:
    if (tenant is None) != default:
        raise typer.BadParameter("name a tenant, or --default")
    if tenant is not None:
        try:
            tenant_field(tenant)
        except InvalidName as error:
            raise typer.BadParameter(str(error)) from None
    return tenant


def _table(found: Quotas) -> Table | Text:
    if not found.any:
        return Text("no tenant has a quota: give one with `stoker quotas set`")
    view = Table("tenant", "soft", "hard", box=None, pad_edge=False)
    for tenant, quota in sorted(found.tenants.items()):
        name = tenant if tenant.isprintable() else tenant.encode("unicode_escape").decode()
        view.add_row(Text(name), _shown(quota.soft), _shown(quota.hard))
    view.add_row(Text("(all others)"), _shown(found.default.soft), _shown(found.default.hard))
    return view


def _shown(most: Amount | None) -> str:
    if most is None:
        return "-"
    return f"{most:.2%}" if isinstance(most, float) else counted(most, "byte")
