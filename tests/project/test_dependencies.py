"""A layer imports only what its own extra declares: nothing is there by luck of another package."""

import ast
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.project.distribution import source_files

LAYERS = {"cache": "", "config": "tasks", "tasks": "tasks", "worker": "demo"}


def imported(module: Path) -> Iterator[str]:
    """The top-level names that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize(("layer", "extra"), LAYERS.items())
def test_a_layer_imports_only_what_its_extra_declares(layer: str, extra: str) -> None:
    declared = {
        canonicalize_name(requirement.name)
        for requirement in map(Requirement, requires("stoker") or [])
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra})
    }
    modules = [
        p for name, p in source_files().items() if name.startswith(f"stoker/{layer}/") and p.suffix == ".py"
    ]
    foreign = {name for module in modules for name in imported(module)} - sys.stdlib_module_names - {"stoker"}
    owners = packages_distributions()
    unknown = {
        name for name in foreign if not declared & {canonicalize_name(o) for o in owners.get(name, [])}
    }
    assert unknown == set()
