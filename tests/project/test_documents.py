"""What the documents name exists: commands, files, headings, the version; and what is public is in them."""

import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import stoker.cache
import stoker.config
import stoker.tasks
from tests.project.distribution import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
NAMES = [path.relative_to(ROOT).as_posix() for path in DOCUMENTS]


def anchors(document: Path) -> set[str]:
    """What a link may name after `#`: the document's headings, as GitHub spells them."""
    prose = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_every_make_command_in_a_document_is_in_the_makefile(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)`", document.read_text())) <= targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_every_file_that_a_document_links_to_exists(document: Path) -> None:
    links = re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_every_heading_that_a_document_links_to_exists(document: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#\s]*)#([^)\s]+)\)", document.read_text())
    targets = [((document.parent / file).resolve() if file else document, anchor) for file, anchor in links]
    assert [(file.name, anchor) for file, anchor in targets if anchor not in anchors(file)] == []


@pytest.mark.parametrize("module", [stoker.cache, stoker.tasks, stoker.config])
def test_every_public_name_is_on_the_page_of_names(module: ModuleType) -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    assert [name for name in module.__all__ if f"`{name}`" not in page] == []


def test_the_changelog_begins_with_the_version_that_is_built() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    headings = re.findall(r"^## \[(\S+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == version
