"""`stoker plans`: what an operator does with warm plans. What a change means is in `stoker.tasks.plan_changes`."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console

from stoker.config.warm_plans import ALL
from stoker.tasks import JobHandle, plan_changes, runtime
from stoker.tasks.errors import PlanError
from stoker.tasks.plan_store import existing
from stoker.tasks.tick import run_now
from stoker.worker import plans_view
from stoker.worker.terminal import counted

plans = typer.Typer(help="List the warm plans, and add, change, pause or run them.", add_completion=False)

Name = Annotated[str, typer.Argument(help="The plan's name.")]
Keys = Annotated[list[str] | None, typer.Option("--keys", help="Keys, separated by commas; may be repeated.")]
Template = Annotated[str | None, typer.Option(help="Template of the keys, such as 'product:{id}'.")]
Params = Annotated[
    list[str] | None,
    typer.Option("--param", metavar="FIELD=A,B", help="Values of a field of the template; may be repeated."),
]
Tenants = Annotated[
    list[str] | None, typer.Option("--tenant", help="Warm the keys for this tenant; may be repeated.")
]
AllTenants = Annotated[
    bool, typer.Option("--all-tenants", help="Warm them for every tenant for whom something was read.")
]
Every = Annotated[str | None, typer.Option(help="Time between two runs: 30s, 15m, 2h or 1d.")]
Cron = Annotated[str | None, typer.Option(help="Instead of --every: five cron fields, in UTC: '0 3 * * *'.")]
Priority = Annotated[int | None, typer.Option(help="0 to 9; of plans due together the highest goes first.")]
OnStartup = Annotated[
    bool | None, typer.Option("--on-startup/--no-on-startup", help="Whether it runs when workers start.")
]
Rate = Annotated[
    float | None, typer.Option(help="Keys a second that all workers together may load for the plan.")
]
Concurrency = Annotated[int | None, typer.Option(help="Batches that they may load at once for the plan.")]


@plans.callback(invoke_without_command=True)
def list_(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the warm plans, and add, change, pause or run them."""
    if context.invoked_subcommand is not None:
        return
    here = runtime.current()
    snapshot = here.plans.read()
    jobs = {job_id: here.jobs.status(job_id) for job_id in plans_view.latest_jobs(snapshot.plans.values())}
    if as_json:
        typer.echo(json.dumps(plans_view.as_json(snapshot, jobs), indent=2))
    else:
        Console().print(plans_view.table(snapshot, jobs))


@plans.command()
def add(
    name: Name,
    keys: Keys = None,
    template: Template = None,
    param: Params = None,
    tenant: Tenants = None,
    all_tenants: AllTenants = False,
    every: Every = None,
    cron: Cron = None,
    priority: Priority = None,
    on_startup: OnStartup = None,
    rate: Rate = None,
    concurrency: Concurrency = None,
) -> None:
    """Add a plan: keys, or a template with values for its fields, and when they are warmed and how fast."""
    fields = _given(
        keys=_split(keys),
        template=template,
        params=_params(name, param),
        tenants=_tenants(name, tenant, all_tenants),
        every=every,
        cron=cron,
        priority=priority,
        on_startup=on_startup,
        rate=rate,
        concurrency=concurrency,
    )
    plan = plan_changes.add(runtime.current().plans, name, fields)
    typer.echo(f"plan {name} is added: {plans_view.pace(plan)}")


@plans.command()
def change(
    name: Name,
    keys: Keys = None,
    template: Template = None,
    param: Params = None,
    tenant: Tenants = None,
    all_tenants: AllTenants = False,
    every: Every = None,
    cron: Cron = None,
    on_demand: Annotated[bool, typer.Option("--on-demand", help="It has neither interval nor cron.")] = False,
    priority: Priority = None,
    on_startup: OnStartup = None,
    rate: Rate = None,
    concurrency: Concurrency = None,
    unlimited: Annotated[
        bool, typer.Option("--unlimited", help="Remove rate and concurrency, except what is given with it.")
    ] = False,
    as_defined: Annotated[
        bool,
        typer.Option("--as-defined", help="Take back what operators changed of a plan in code or settings."),
    ] = False,
) -> None:
    """Change a plan. Of a plan in code or settings only its times and speed; --as-defined takes that back."""
    fields = _given(
        keys=_split(keys),
        template=template,
        params=_params(name, param),
        tenants=_tenants(name, tenant, all_tenants),
        every=every,
        cron=cron,
        priority=priority,
        on_startup=on_startup,
        rate=rate,
        concurrency=concurrency,
    )
    plan = plan_changes.change(
        runtime.current().plans,
        name,
        fields,
        on_demand=on_demand,
        unlimited=unlimited,
        as_defined=as_defined,
    )
    typer.echo(f"plan {name}: {plans_view.pace(plan)}")


@plans.command()
def pause(name: Name) -> None:
    """Pause a plan: neither the clock nor starting workers run it."""
    plan_changes.pause(runtime.current().plans, name)
    typer.echo(f"plan {name} is paused; `stoker plans run {name}` still runs it")


@plans.command()
def resume(name: Name) -> None:
    """Let a paused plan run by the clock again."""
    plan_changes.resume(runtime.current().plans, name)
    typer.echo(f"plan {name} is resumed")


@plans.command()
def remove(name: Name) -> None:
    """Remove a plan that an operator added, or one that no worker defines any more."""
    plan_changes.remove(runtime.current().plans, name)
    typer.echo(f"plan {name} is removed")


@plans.command()
def run(
    name: Name,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until it has ended; exit code 1 if it failed.")
    ] = False,
) -> None:
    """Run a plan now, whatever its schedule says. Joins a run that is not over."""
    here = runtime.current()
    existing(name, here.plans.read().plans.get(name))
    job_id = run_now(here, name)
    typer.echo(f"plan {name} runs as job {job_id}")
    if wait:
        status = JobHandle(job_id).wait()
        typer.echo(f"{status.state}: {counted(status.done, 'key')}")


@plans.command()
def seen() -> None:
    """Stop reporting what was lost when the state server was emptied."""
    runtime.current().plans.forget_losses()


def _given(**fields: Any) -> dict[str, Any]:
    """What was given, as the fields of a plan."""
    return {field: value for field, value in fields.items() if value is not None}


def _tenants(name: str, tenants: list[str] | None, all_tenants: bool) -> list[str] | str | None:
    if tenants and all_tenants:
        raise PlanError(name, "give --tenant or --all-tenants, not both")
    return ALL if all_tenants else tenants or None


def _split(keys: list[str] | None) -> list[str] | None:
    return [key.strip() for text in keys for key in text.split(",")] if keys else None


def _params(name: str, params: list[str] | None) -> dict[str, list[str]] | None:
    found: dict[str, list[str]] = {}
    for text in params or ():
        field, equals, values = text.partition("=")
        if not equals or not field:
            raise PlanError(name, f"--param {text!r}: write FIELD=VALUE,VALUE, such as --param id=1,2,3")
        found.setdefault(field, []).extend(value.strip() for value in values.split(","))
    return found or None
