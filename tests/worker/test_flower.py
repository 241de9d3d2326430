"""Flower's options: safe unless somebody insists."""

import pytest

from stoker.cache import ConfigError
from stoker.config import Settings
from stoker.worker.flower import options


def test_flower_listens_on_this_machine_asks_for_a_password_and_only_shows() -> None:
    found = options(Settings(flower={"password": "coal, and fire", "user": "op"}))
    assert found["address"] == "127.0.0.1"
    assert found["basic_auth"] == ["op:coal, and fire"]
    assert found["read_only"] is True
    assert found["max_tasks"] == 5000
    assert "result" in found["tasks_columns"].split(",")


def test_flower_is_not_started_without_a_password() -> None:
    with pytest.raises(ConfigError, match="STOKER_FLOWER__PASSWORD=None: choose the password"):
        options(Settings())


def test_flower_is_not_started_with_its_own_protection_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWER_UNAUTHENTICATED_API", "true")
    with pytest.raises(ConfigError, match="FLOWER_UNAUTHENTICATED_API='true': unset it"):
        options(Settings(flower={"password": "x"}))
