"""Log lines of the processes that Stoker starts."""

import json
import logging
from collections.abc import Iterator

import pytest

from stoker.config import Settings, setup_logging


@pytest.fixture(autouse=True)
def _root_logger_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:], root.level = handlers, level


def test_a_line_of_json_holds_what_was_logged(capfd: pytest.CaptureFixture[str]) -> None:
    setup_logging(Settings(log_format="json"))
    try:
        raise ValueError("no coal")
    except ValueError:
        logging.getLogger("stoker.boiler").exception("fire %s", "out")
    line = json.loads(capfd.readouterr().err)
    assert (line["level"], line["logger"], line["message"]) == ("ERROR", "stoker.boiler", "fire out")
    assert "ValueError: no coal" in line["traceback"]


def test_what_is_below_the_level_is_not_logged(capfd: pytest.CaptureFixture[str]) -> None:
    setup_logging(Settings(log_level="WARNING"))
    logging.getLogger("stoker.boiler").info("fire on")
    assert capfd.readouterr().err == ""
