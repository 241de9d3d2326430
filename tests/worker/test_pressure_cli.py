"""`stoker pressure` and `stoker quotas`: what they show, and what they change."""

import json
import time
from io import StringIO

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from stoker.cache.quotas import Quota, Quotas
from stoker.config import open_cache
from stoker.tasks import runtime
from stoker.tasks.pressure import look
from stoker.tasks.pressure_store import Composition, Point
from stoker.worker import cli, pressure_view
from stoker.worker.pressure_view import Pressure
from stoker.worker.terminal import counted

pytestmark = pytest.mark.usefixtures("operator")


def stoker(*arguments: str) -> Result:
    return CliRunner().invoke(cli.cli, arguments, env={"COLUMNS": "200"})


def test_before_the_first_look_it_says_who_looks() -> None:
    assert "stoker beat" in stoker("pressure").output


def test_it_draws_what_was_seen_and_tells_whose_the_entries_are() -> None:
    here = runtime.current()
    with open_cache(here.settings) as app:
        app.set_many({f"user:{n}": "x" * 500 for n in range(50)}, "ac\x1bme")
    for second in range(5):
        at, share = time.time() - 50 + 10 * second, 0.1 + 0.2 * second
        slope = 0.02 * 2**20
        point = Point(at, round(share * 2**20), 2**20, 2**21, 1.2, 0, 100, 0, 0, slope, pressed=share > 0.85)
        here.pressure.add(point, None)
    shown = stoker("pressure").output
    assert "▁" in shown
    assert "█" in shown
    assert "full in 5 s" in shown
    assert "warm plans wait" in shown
    look(here)
    shown = stoker("pressure").output
    assert "ac\\x1bme" in shown
    assert "user:*" in shown
    assert "±" in shown
    found = json.loads(stoker("pressure", "--json").output)
    assert len(found["points"]) == 6
    assert found["composition"]["tenants"][0]["bytes"] > 0


def test_of_a_cluster_it_tells_the_fullest_node_and_those_without_an_answer() -> None:
    here = runtime.current()
    point = Point(time.time(), 2**19, 2**20, 0, 1.0, 0, 9, 0, 0, fullest=0.87, missing=("10.0.0.7:7000",))
    whole = Composition(time.time(), 9, 9, 900, missing=("10.0.0.8:7000",))
    here.pressure.add(point, whole)
    shown = stoker("pressure").output
    assert "50% of 1.0 MiB, the fullest node 87%" in shown
    assert "no answer from 10.0.0.7:7000: what is there is not counted" in shown
    assert "ago, without 10.0.0.8:7000" in shown
    [found] = json.loads(stoker("pressure", "--json").output)["points"]
    assert (found["share"], found["missing"]) == (0.87, ["10.0.0.7:7000"])


def test_one_of_anything_is_not_told_as_many() -> None:
    now = time.time()
    point = Point(now, 2**19, 2**20, 2**21, 1.2, 0, 1, 0, 0, 0.0, pressed=False)
    pressure = Pressure([point], Composition(now, 1, 1, 800), (0.9, 0.8), now)
    page = StringIO()
    Console(width=200, file=page).print(pressure_view.table(pressure))
    assert "1 entry, 800 B" in page.getvalue()
    assert "holds        1 key;" in page.getvalue()


@pytest.mark.parametrize(
    ("number", "what", "told"),
    [
        (0, "key", "0 keys"),
        (1, "entry", "1 entry"),
        (1200, "entry", "1,200 entries"),
        (2, "hot key", "2 hot keys"),
    ],
)
def test_numbers_of_things_are_told_as_people_write_them(number: int, what: str, told: str) -> None:
    assert counted(number, what) == told


def test_quotas_are_listed_set_and_dropped() -> None:
    assert "no tenant has a quota" in stoker("quotas").output
    assert stoker("quotas", "set", "acme", "--soft", "10%", "--hard", "200MB").exit_code == 0
    assert stoker("quotas", "set", "--default", "--soft", "5%").exit_code == 0
    assert runtime.current().pressure.quotas() == Quotas(
        Quota(soft=0.05), {"acme": Quota(soft=0.1, hard=200_000_000)}
    )
    shown = stoker("quotas").output
    assert "10.00%" in shown
    assert "200,000,000 bytes" in shown
    assert json.loads(stoker("quotas", "--json").output)["tenants"]["acme"]["hard"] == 200_000_000
    assert stoker("quotas", "drop", "acme").exit_code == 0
    assert stoker("quotas", "drop", "acme").exit_code == 1


@pytest.mark.parametrize(
    "arguments",
    [("set", "acme"), ("set", "--soft", "10%"), ("set", "acme", "--default", "--soft", "1%"), ("drop",)],
)
def test_what_is_not_clear_is_refused(arguments: tuple[str, ...]) -> None:
    assert stoker("quotas", *arguments).exit_code == 2
