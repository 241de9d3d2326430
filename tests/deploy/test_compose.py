"""docker-compose.yml says what it should, in words that Compose, Stoker and the servers know. Nothing is started."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer
from ruamel.yaml import YAML

from stoker.config import InvalidSettings, Settings
from stoker.config.settings import leaf_names
from stoker.tasks import names
from stoker.worker import cli, health
from stoker.worker.flower import options
from tests.deploy import compose
from tests.deploy.compose import FILE, ROOT, SECRET, SECRETS_DIR, Service

SERVICES = {service.name: service for service in compose.services()}
STOKER = [service for service in SERVICES.values() if service.is_stoker]
WORKERS = [service for service in STOKER if service.is_worker]
SERVERS = [service for service in SERVICES.values() if service.is_server]
MONITORING = {"metrics", "prometheus", "grafana"}

every_service = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
every_process_of_ours = pytest.mark.parametrize("service", STOKER, ids=[s.name for s in STOKER])
every_worker = pytest.mark.parametrize("service", WORKERS, ids=[s.name for s in WORKERS])
every_server = pytest.mark.parametrize("service", SERVERS, ids=[s.name for s in SERVERS])


def validate(file: Path) -> "subprocess.CompletedProcess[str]":
    """Compare a file with the schema of the Compose specification, which the validator brings along."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)


def test_the_file_agrees_with_the_schema_of_the_compose_specification(tmp_path: Path) -> None:
    ended = validate(FILE)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    # and the comparison finds a slip
    slip = tmp_path / "docker-compose.yml"
    slip.write_text(FILE.read_text().replace("mem_limit: 256m", "memory_limit: 256m"))
    ended = validate(slip)
    assert ended.returncode == 1
    assert "memory_limit" in ended.stdout


@every_service
def test_a_service_is_bounded_watched_and_started_again(service: Service) -> None:
    definition = service.definition
    assert definition["restart"] == "unless-stopped"
    assert compose.size(definition["mem_limit"]) > 0
    assert definition["pids_limit"] > 0
    assert {"max-size", "max-file"} <= definition["logging"]["options"].keys()
    assert service.question
    assert definition["healthcheck"].keys() >= {"interval", "timeout", "retries", "start_period"}


@every_service
def test_a_service_has_no_right_that_it_does_not_need(service: Service) -> None:
    definition = service.definition
    user, group = definition["user"].split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert definition["cap_drop"] == ["ALL"]
    assert definition["security_opt"] == ["no-new-privileges:true"]
    assert definition["read_only"] is True
    assert definition["init"] is True
    assert definition.keys().isdisjoint({"privileged", "cap_add", "devices", "pid", "ipc", "network_mode"})


@every_service
def test_a_service_can_be_scaled_for_its_containers_have_no_name_of_their_own(service: Service) -> None:
    assert service.definition.keys().isdisjoint({"container_name", "hostname"})


@every_service
def test_an_image_is_of_one_version(service: Service) -> None:
    assert re.search(r":v?\d+\.\d+\.\d+(-\w+)?$", service.definition["image"])


def test_the_image_of_stoker_is_of_the_version_that_is_built() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {service.definition["image"] for service in STOKER} == {f"stoker:{version}"}


def test_what_draws_metrics_is_started_only_on_demand() -> None:
    on_demand = {s.name for s in SERVICES.values() if "profiles" in s.definition}
    assert on_demand == MONITORING
    assert {str(SERVICES[name].definition["profiles"]) for name in MONITORING} == {"['monitoring']"}


def test_nothing_is_published_but_what_is_for_browsers_and_that_on_loopback_only() -> None:
    published = {s.name: s.definition["ports"] for s in SERVICES.values() if "ports" in s.definition}
    port = SERVICES["flower"].environment["STOKER_FLOWER__PORT"]
    assert published == {"flower": [f"127.0.0.1:{port}:{port}"], "grafana": ["127.0.0.1:3000:3000"]}


@every_server
def test_a_server_is_reached_by_those_alone_that_need_it(service: Service) -> None:
    [network] = service.definition["networks"]
    assert compose.read({"STOKER_SECRETS_DIR": "/nowhere"})["networks"][network] == {"internal": True}
    reached_by = {s.name for s in STOKER if network in s.definition["networks"]}
    workers = {s.name for s in WORKERS}
    others = {"metrics"} if service.name == "cache" else {"metrics", "beat", "flower"}
    assert reached_by == workers | others


@every_server
def test_a_server_stays_within_its_memory_limit(service: Service) -> None:
    limit = compose.size(service.definition["mem_limit"])
    most = compose.size(compose.directives(compose.configuration(service))["maxmemory"])
    assert limit >= most * (2 if service.name == "broker" else 1.25)


def test_the_cache_evicts_and_keeps_nothing_while_the_broker_drops_nothing() -> None:
    cache, broker = (
        compose.directives(compose.configuration(SERVICES[name])) for name in ("cache", "broker")
    )
    assert (cache["maxmemory-policy"], cache["appendonly"], cache["save"]) == ("volatile-lfu", "no", '""')
    assert (broker["maxmemory-policy"], broker["appendonly"]) == ("noeviction", "yes")
    assert "broker:/data" in SERVICES["broker"].definition["volumes"]
    assert all(mount.endswith(":ro") for mount in SERVICES["cache"].definition["volumes"])


def test_every_queue_has_one_worker_of_its_own() -> None:
    assert sorted(worker.option("--queue") for worker in WORKERS) == sorted(names.QUEUES)


@every_process_of_ours
def test_a_command_is_one_of_the_command_line(service: Service) -> None:
    group = typer.main.get_group(cli.cli)
    with group.make_context("stoker", service.command.copy(), resilient_parsing=True) as context:
        name, command, arguments = group.resolve_command(context, service.command.copy())
        assert name is not None
        assert command is not None
        command.make_context(name, arguments).close()


@every_process_of_ours
def test_the_settings_of_a_process_exist_and_are_valid(
    service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in service.environment.items():
        monkeypatch.setenv(name, value)
    settings = Settings()  # refuses names and values that it does not know
    assert settings.secrets_dir == Path(SECRETS_DIR)
    assert settings.broker() == "redis://broker:6379/0"
    needs_the_cache = service.is_worker or service.name == "metrics"
    assert (settings.cache_url == "redis://cache:6379/0") == needs_the_cache


def test_what_the_file_takes_from_outside_are_settings() -> None:
    # else `stoker` would refuse to start in this directory, for it reads the same .env
    assert compose.variables() <= set(leaf_names())


@every_process_of_ours
def test_the_health_check_asks_the_very_process_that_runs(service: Service) -> None:
    names_of = {"beat": "stoker-beat"}
    asked = ["node", service.option("--name") if service.is_worker else names_of.get(service.name, "")]
    asked = [service.name] if service.name in ("flower", "metrics") else asked
    assert service.question == ["python", "-m", "stoker.worker.health", *asked]
    longest = max(health.NODE_ANSWERS_WITHIN_S, health.FLOWER_ANSWERS_WITHIN_S)
    assert service.seconds("healthcheck", "timeout") > 2 * longest


@every_worker
def test_a_worker_is_given_longer_to_stop_than_it_gives_its_tasks(service: Service) -> None:
    given = float(service.environment["STOKER_WORKER__SHUTDOWN_TIMEOUT"])
    assert service.seconds("stop_grace_period") >= given + 15


@every_service
def test_a_service_waits_for_the_servers_that_it_talks_to(service: Service) -> None:
    talks_to = {server for server in ("cache", "broker") if f"//{server}:" in str(service.environment)}
    waits = service.definition.get("depends_on", {})
    assert waits == {server: {"condition": "service_healthy"} for server in talks_to}


def test_without_a_directory_of_secrets_the_file_is_refused() -> None:
    with pytest.raises(KeyError, match="STOKER_SECRETS_DIR: name the directory"):
        compose.read({})


def test_flower_and_grafana_have_the_password_from_a_secret_and_nobody_else_has_it() -> None:
    document = compose.read({"STOKER_SECRETS_DIR": "/somewhere"})
    assert document["secrets"] == {SECRET: {"file": f"/somewhere/{SECRET}"}}
    assert {s.name for s in SERVICES.values() if "secrets" in s.definition} == {"flower", "grafana"}
    for name in ("flower", "grafana"):
        assert SERVICES[name].definition["secrets"] == [SECRET]
    assert SERVICES["grafana"].environment["GF_SECURITY_ADMIN_PASSWORD__FILE"] == f"{SECRETS_DIR}/{SECRET}"
    assert "STOKER_FLOWER__PASSWORD" not in FILE.read_text()


@pytest.mark.parametrize("content", [None, "", "\n"], ids=["missing", "empty", "a bare line"])
def test_flower_does_not_start_on_a_secret_that_says_nothing(
    content: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STOKER_SECRETS_DIR", str(tmp_path))
    if content is not None:
        (tmp_path / SECRET).write_text(content)
    with pytest.raises((InvalidSettings, ValueError), match="STOKER_FLOWER__PASSWORD"):
        options(Settings())


def test_flower_takes_the_password_from_the_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in SERVICES["flower"].environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("STOKER_SECRETS_DIR", str(tmp_path))
    (tmp_path / SECRET).write_text("coal, and fire\n")
    found = options(Settings())
    assert found["basic_auth"] == ["stoker:coal, and fire"]
    assert (found["address"], found["port"], found["read_only"]) == ("0.0.0.0", 5555, True)


def overrides() -> list[str]:
    """The files docker-compose.override.yml that the documentation shows."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs" / "deployment.md").read_text(), re.S | re.M)
    return [block for block in blocks if block.startswith("# docker-compose.override.yml")]


def test_the_documented_overrides_change_every_worker_and_nothing_else() -> None:
    assert len(overrides()) == 2
    for text in overrides():
        changed = YAML(typ="safe").load(text)["services"]
        assert changed.keys() == {worker.name for worker in WORKERS}


def compose_command() -> list[str] | None:
    """Compose, if this machine has it; it needs no engine to read a file."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            asked = subprocess.run([*command, "version"], capture_output=True, timeout=110, check=False)
            if asked.returncode == 0:
                return command
    return None


def compose_reads(*files: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    command = compose_command()
    if command is None:
        pytest.skip("this machine has no Compose")
    named = [word for file in files for word in ("--file", str(file))]
    place = ["--project-directory", str(ROOT), "--env-file", os.devnull]
    return subprocess.run(
        [*command, *place, *named, "config", "--format", "json"],
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_compose_itself_reads_the_file_as_these_tests_do() -> None:
    ended = compose_reads(FILE, STOKER_SECRETS_DIR="/nowhere")
    assert ended.returncode == 0, ended.stderr
    read = json.loads(ended.stdout)["services"]
    assert read.keys() == SERVICES.keys()
    for name, service in SERVICES.items():
        assert read[name]["command"] == service.command
        assert read[name]["healthcheck"]["test"] == ["CMD", *service.question]
        assert int(read[name]["mem_limit"]) == compose.size(service.definition["mem_limit"])
        assert read[name].get("environment", {}).items() >= service.environment.items()


def test_compose_itself_refuses_the_file_without_a_directory_of_secrets() -> None:
    ended = compose_reads(FILE)
    assert ended.returncode != 0
    assert "STOKER_SECRETS_DIR" in ended.stderr


def test_compose_itself_takes_the_documented_overrides(tmp_path: Path) -> None:
    override = tmp_path / "docker-compose.override.yml"
    for text in overrides():
        override.write_text(text)
        ended = compose_reads(FILE, override, STOKER_SECRETS_DIR="/nowhere")
        assert ended.returncode == 0, ended.stderr
