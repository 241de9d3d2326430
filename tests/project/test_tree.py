"""What holds for every file: its length, its docstring, its place in the wheel."""

import ast
import zipfile
from pathlib import Path

import pytest

import stoker.cache
from tests.project.distribution import ROOT, portions, source_files

MOST_LINES = 400

MODULES = {name: path for name, path in source_files().items() if name.endswith(".py")} | {
    path.relative_to(ROOT).as_posix(): path
    for folder in ("tests", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
}


def test_the_namespace_has_no_package_of_its_own_to_clash_with() -> None:
    assert [portion for portion in portions() if (portion / "__init__.py").exists()] == []


def test_no_file_outgrows_one_purpose() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES} == {}


def test_every_module_opens_by_saying_what_it_is_for() -> None:
    opening = {name: ast.get_docstring(ast.parse(path.read_text())) for name, path in MODULES.items()}
    assert [name for name, docstring in opening.items() if docstring is None] == []


@pytest.mark.parametrize("name", stoker.cache.__all__)
def test_every_name_the_cache_offers_exists(name: str) -> None:
    assert getattr(stoker.cache, name) is not None


def test_the_cache_offers_each_name_once() -> None:
    assert len(stoker.cache.__all__) == len(set(stoker.cache.__all__))


def test_the_wheel_holds_every_file_of_the_four_folders_and_no_other_package(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == set(source_files())


def test_every_layer_says_that_it_is_typed() -> None:
    layers = ["cache", "config", "tasks", "worker"]
    assert {f"stoker/{layer}/py.typed" for layer in layers} <= set(source_files())
