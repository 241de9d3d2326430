"""`stoker get`, `explain` and `invalidate`: what an operator does about entries, also while no worker runs."""

import json
from collections.abc import Iterator
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stoker.cache import Cache
from stoker.cache.matching import EXAMPLES, Matching, added
from stoker.config import InvalidSettings
from stoker.tasks import NotSent, names, runtime, send
from stoker.tasks.invalidate import apply
from stoker.worker import lifecycle
from stoker.worker.terminal import counted, printable

Key = Annotated[str, typer.Argument(help="The key.")]
Tenant = Annotated[str | None, typer.Option(help="The tenant; the shared key space if left out.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def get(key: Key, tenant: Tenant = None) -> None:
    """Print what is cached under a key, as JSON. Loads nothing. Exit code 1: there is nothing."""
    cache, nothing = _cache(), object()
    state = cache.explain(key, tenant)["state"]
    value = cache.get(key, tenant, nothing) if state == "live" else nothing
    if value is nothing:
        typer.echo(
            f"nothing is served for {printable(key)}, its entry is {state}: see  stoker explain", err=True
        )
        raise typer.Exit(1)
    typer.echo(json.dumps(value, default=str, ensure_ascii=False, indent=2))


def explain(key: Key, tenant: Tenant = None, as_json: AsJson = False) -> None:
    """Show what is stored under a key, whether it is served, and what that is judged by."""
    facts = _cache().explain(key, tenant)
    if as_json:
        _print_json(facts)
        return
    view = Table(box=None, show_header=False, pad_edge=False)
    for name, value in facts.items():
        view.add_row(name, Text(printable(_shown(value))))
    Console().print(view)


def invalidate(
    keys: Annotated[list[str] | None, typer.Argument(metavar="[KEY]...", help="Keys.")] = None,
    pattern: Annotated[
        str | None, typer.Option("--pattern", "-p", help="All keys that match, such as 'user:*'.")
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", "-t", help="All that carries this tag; may be repeated.")
    ] = None,
    tenant: Tenant = None,
    everything: Annotated[bool, typer.Option("--everything", help="All that --tenant has.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what is cached now and would be invalidated.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Invalidate keys, a pattern, tags or a tenant, at once and without a worker; then ask for a sweep."""
    given: dict[str, Any] = {
        "keys": keys or [],
        "tags": tag or [],
        "pattern": pattern,
        "tenant_id": tenant,
        "whole_tenant": everything,
    }
    wanted = cast("names.Invalidate", names.check(names.INVALIDATE, given))
    cache = _cache()
    if dry_run:
        _print_matching(_matching(cache, wanted), as_json)
        return
    report = apply(cache, wanted)
    if as_json:
        _print_json(report)
    else:
        typer.echo(f"invalidated: {', '.join(_named(wanted, report['deleted']))}")
    if report["bans"]:
        _ask_for_a_sweep()


def _cache() -> Cache:
    here = runtime.current()
    lifecycle.check_cache(here.settings)
    return here.cache


def _named(wanted: names.Invalidate, there: int) -> Iterator[str]:
    if wanted.whole_tenant:
        yield f"all of tenant {printable(str(wanted.tenant_id))}"
    if wanted.pattern is not None:
        yield f"pattern {printable(wanted.pattern)}"
    if wanted.tags:
        yield f"what is tagged {' or '.join(map(printable, wanted.tags))}"
    if wanted.keys:
        absent = len(wanted.keys) - there
        yield counted(len(wanted.keys), "key") + (f", {absent:,} not there" if absent else "")


def _ask_for_a_sweep() -> None:
    try:
        send.sweep()
    except (NotSent, InvalidSettings) as error:
        typer.echo(f"its memory is given back by the next sweep; none could be asked for: {error}", err=True)


def _matching(cache: Cache, wanted: names.Invalidate) -> Matching:
    """What is cached and would be invalidated; what is named by its key and otherwise too counts twice."""
    tenant = wanted.tenant_id
    keys = [key for key in dict.fromkeys(wanted.keys) if cache.explain(key, tenant)["state"] == "live"]
    found = Matching(len(keys), 0, tuple(keys[:EXAMPLES]))
    if wanted.whole_tenant:
        return added(found, cache.matching(tenant_id=tenant))
    if wanted.pattern is not None or wanted.tags:
        return added(found, cache.matching(wanted.pattern, wanted.tags, tenant))
    return found


def _print_matching(found: Matching, as_json: bool) -> None:
    if as_json:
        _print_json({"entries": found.entries, "examples": found.examples})
        return
    typer.echo(f"{counted(found.entries, 'entry')} would be invalidated; nothing was")
    for key in found.examples:
        typer.echo(f"  {printable(key)}")
    if found.entries > len(found.examples):
        typer.echo("  ...")


def _print_json(what: object) -> None:
    typer.echo(json.dumps(what, indent=2))


def _shown(fact: Any) -> str:
    if isinstance(fact, list):
        return ", ".join(fact)
    return "" if fact is None else str(fact)
