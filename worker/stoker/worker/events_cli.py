"""`stoker events`: what becomes of events, and what an operator does with those that were given up."""

import json
from typing import Annotated

import typer
from rich.console import Console

from stoker.tasks import runtime
from stoker.tasks.errors import InvalidArguments
from stoker.tasks.event_record import DeadLetter
from stoker.tasks.react import replay as run_again
from stoker.worker import events_view

events = typer.Typer(help="Show how events were handled, and run dead letters again.", add_completion=False)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@events.callback(invoke_without_command=True)
def overview(context: typer.Context, as_json: AsJson = False) -> None:
    """Show the rules with their counts, and the latest outcomes."""
    if context.invoked_subcommand is not None:
        return
    found = runtime.current().events.overview()
    if as_json:
        typer.echo(json.dumps(events_view.as_json(found), indent=2))
    else:
        Console().print(events_view.overview(found))


@events.command()
def dead(as_json: AsJson = False) -> None:
    """List the dead letters: events that a rule could not handle, and why."""
    letters = runtime.current().events.dead()
    if as_json:
        typer.echo(json.dumps([events_view.letter_as_json(letter) for letter in letters], indent=2))
    else:
        Console().print(events_view.dead(letters))


@events.command()
def replay(
    event_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="The event whose dead letters to run again.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="All dead letters.")] = False,
) -> None:
    """Run the rules of dead letters again, as for a new event. What fails again is listed again."""
    if (event_id is None) != all_:
        raise typer.BadParameter("name an event, or give --all; `stoker events dead` lists them")
    letters = [letter for letter in runtime.current().events.dead() if all_ or letter.id == event_id]
    left = [letter for letter in letters if not _is_run_again(letter)]
    if not letters:
        typer.echo("there is no dead letter" + ("" if all_ else f" of event {event_id}"))
    raise typer.Exit(1 if left or not (letters or all_) else 0)


def _is_run_again(letter: DeadLetter) -> bool:
    try:
        run_again(letter)
    except InvalidArguments as error:
        typer.echo(f"event {letter.id} cannot be run again: {error}")
        return False
    typer.echo(f"event {letter.id} is run again" + (f" by {letter.rule}" if letter.rule else ""))
    return True
