"""The Dockerfile makes a small image that runs as nobody in particular, from the files of this project alone."""

import re
import tomllib

from tests.deploy import compose, dockerfile
from tests.deploy.compose import ROOT

MAKING, FINAL = dockerfile.stages()


def words(word: str) -> list[list[str]]:
    """The arguments of each such instruction of the final stage."""
    return [step.words for step in FINAL if step.word == word]


def test_all_stages_begin_with_one_python_of_one_version() -> None:
    bases = {stage[0].words[0] for stage in (MAKING, FINAL)}
    assert len(bases) == 1
    found = re.fullmatch(r"python:(\d+\.\d+)-slim-[a-z]+", bases.pop())
    assert found is not None
    tried = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    assert f"Programming Language :: Python :: {found[1]}" in tried


def test_the_final_stage_brings_no_tool_to_build_with() -> None:
    [run] = words("RUN")
    assert run[0] == "groupadd"
    assert [step.rest for step in FINAL if step.word == "COPY"] == ["--from=build /opt/stoker /opt/stoker"]


def test_the_image_runs_stoker_as_the_user_that_compose_names() -> None:
    assert words("ENTRYPOINT") == [["stoker"]]
    assert words("STOPSIGNAL") == [["SIGTERM"]]
    [[user]] = words("USER")
    assert {s.definition["user"] for s in compose.services() if s.is_stoker} == {user}


def test_the_image_says_what_it_is() -> None:
    [label] = [step.settings for step in FINAL if step.word == "LABEL"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert label["org.opencontainers.image.licenses"] == project["license"]
    assert {"org.opencontainers.image.title", "org.opencontainers.image.description"} <= label.keys()


def test_the_builder_is_sent_what_is_copied_and_nothing_else() -> None:
    copied = {source for step in MAKING if step.word == "COPY" for source in step.words[:-1]}
    assert copied == set(dockerfile.ignored_but())


def test_what_is_installed_is_the_wheel_that_was_built_and_not_a_namesake() -> None:
    [install] = [step.rest for step in MAKING if "pip --python" in step.rest]
    assert '"$(echo /dist/stoker-*.whl)[worker]"' in install
    assert "--only-binary :all:" in install
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert "worker" in extras
