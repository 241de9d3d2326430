"""The embedded servers."""

import pytest
import redis

from stoker.worker import embedded
from stoker.worker.embedded import embedded_server, free_port, start_server
from stoker.worker.processes import Processes


def config_of(url: str) -> dict[str, str]:
    with redis.Redis.from_url(url, decode_responses=True) as client:
        found: dict[str, str] = client.config_get("*")
        return found


def test_a_cache_server_drops_only_what_expires_and_a_broker_server_drops_nothing() -> None:
    with Processes() as processes:
        cache = config_of(start_server(processes, "cache", cache_bytes=32 * 2**20).url)
        broker = config_of(start_server(processes, "broker").url)
    assert (cache["maxmemory"], cache["maxmemory-policy"]) == (str(32 * 2**20), "volatile-lru")
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
