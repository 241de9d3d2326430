"""Settings: where they come from, what they map to, and what is said about wrong ones."""

from pathlib import Path

import pytest

from stoker.cache import CacheConfig, ConfigError
from stoker.config import InvalidSettings, JobSettings, Settings, effective, open_cache


@pytest.fixture(autouse=True)
def _empty_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No `.env` but the test's own."""
    monkeypatch.chdir(tmp_path)


def refusal(**values: object) -> str:
    with pytest.raises(InvalidSettings) as refused:
        Settings(**values)
    return str(refused.value)


def test_without_any_setting_the_cache_has_its_own_defaults() -> None:
    assert Settings().cache_config() == CacheConfig()


def test_a_cache_url_makes_it_the_redis_backend() -> None:
    config = Settings(cache_url="redis://localhost:1/0", namespace="shop", cache_timeout=0.5).cache_config()
    assert config == CacheConfig("redis", redis_url="redis://localhost:1/0", namespace="shop", timeout=0.5)


def test_the_one_place_where_a_cache_is_assembled_does_not_connect() -> None:
    with open_cache(Settings(cache_url="redis://localhost:1/0")) as cache:
        assert cache.backend == "redis"


def test_a_secret_that_is_no_text_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "key.der").write_bytes(b"\xff\xfe\x00")
    monkeypatch.setenv("STOKER_SECRETS_DIR", str(tmp_path / "secrets"))
    assert "holds a file that cannot be read as text" in refusal()


def test_shards_are_opened_with_the_cache() -> None:
    settings = Settings(cache_url="redis://localhost:1/0", num_shards=4, shard_key_func="zlib:crc32")
    with pytest.raises(ConfigError, match="raised TypeError for key 'probe:0'"):  # it wants bytes
        open_cache(settings)
    with open_cache(Settings(cache_url="redis://localhost:1/0", num_shards=4)) as cache:
        assert "{stoker:" in cache._namespaced_key("user:1")
    with pytest.raises(ConfigError, match="STOKER_SHARD_KEY_FUNC='nowhere:at_all': cannot be imported"):
        open_cache(Settings(num_shards=2, shard_key_func="nowhere:at_all"))
    assert "STOKER_SHARD_KEY_FUNC" in refusal(shard_key_func="no colon")


def test_the_environment_beats_the_env_file_and_that_beats_the_secrets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Given one setting in three places, another in two, a third in one
    (tmp_path / "secrets").mkdir()
    for name in ("stoker_namespace", "stoker_max_size", "stoker_flower__password"):
        (tmp_path / "secrets" / name).write_text("30\n")
    (tmp_path / ".env").write_text("STOKER_NAMESPACE=file\nSTOKER_MAX_SIZE=20\nDJANGO_DEBUG=1\n")
    monkeypatch.setenv("STOKER_NAMESPACE", "environment")
    monkeypatch.setenv("STOKER_SECRETS_DIR", str(tmp_path / "secrets"))
    # When they are read
    settings = Settings()
    # Then each comes from the strongest source, and `effective` says so
    assert settings.namespace == "environment"
    assert settings.max_size == 20
    assert settings.flower.password is not None
    assert settings.flower.password.get_secret_value() == "30"
    sources = {one.name: one.source for one in effective(settings)}
    assert sources["STOKER_NAMESPACE"] == "environment"
    assert sources["STOKER_MAX_SIZE"] == ".env"
    assert sources["STOKER_FLOWER__PASSWORD"] == "secrets"
    assert sources["STOKER_LEASE"] == "default"


def test_members_of_a_group_are_joined_with_two_underscores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_JOB__LOCK_TTL", "3")
    settings = Settings()
    assert settings.job == JobSettings(lock_ttl=3)
    assert {one.name: one.source for one in effective(settings)}["STOKER_JOB__LOCK_TTL"] == "environment"


def test_what_a_program_gives_itself_is_shown_as_an_argument() -> None:
    assert {one.source for one in effective(Settings(namespace="x")) if one.value == "x"} == {"argument"}


@pytest.mark.parametrize("written", ["app.loaders, shop.loaders", '["app.loaders", "shop.loaders"]'])
def test_loaders_are_a_comma_list_or_json(monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    monkeypatch.setenv("STOKER_LOADERS", written)
    assert Settings().loaders == ("app.loaders", "shop.loaders")


def test_none_switches_off_and_empty_means_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_DEFAULT_TTL", "none")
    monkeypatch.setenv("STOKER_BEAT__SWEEP_EVERY", "none")
    monkeypatch.setenv("STOKER_CACHE_URL", "")
    settings = Settings()
    assert (settings.default_ttl, settings.beat.sweep_every, settings.cache_url) == (None, None, None)


def test_the_state_is_kept_on_the_brokers_server_unless_another_is_named() -> None:
    broker, state = "redis://localhost:1/0", "redis://localhost:2/0"
    assert Settings(broker_url=broker).state() == broker
    assert Settings(broker_url=broker, state_url=state).state() == state


def test_without_a_broker_the_error_says_what_to_set() -> None:
    with pytest.raises(ConfigError, match=r"STOKER_BROKER_URL=None: give the broker's URL, such as redis://"):
        Settings().broker()


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("STOKER_DEFAULT_TTL", "-1", "STOKER_DEFAULT_TTL=-1.0: give seconds above 0"),
        (
            "STOKER_CACHE_URL",
            "http://u:secret@h",
            "STOKER_CACHE_URL='http://u:***@h': start it with redis://",
        ),
        (
            "STOKER_BROKER_URL",
            "amqp://u:secret@h",
            "STOKER_BROKER_URL='amqp://u:***@h': start it with redis://",
        ),
        ("STOKER_NAMESPACE", "a b", "STOKER_NAMESPACE='a b': use 1 to 64 letters"),
        ("STOKER_LEASE", "90", "STOKER_LEASE=90.0: give a number from 0.1 to 60"),
        ("STOKER_MAX_SIZE", "many", "STOKER_MAX_SIZE='many'"),
        ("STOKER_JOB__LOCK_TTL", "0", "STOKER_JOB__LOCK_TTL='0'"),
        ("STOKER_JOB__TIME_LIMIT", "9", "STOKER_JOB__TIME_LIMIT=9.0: must be above soft_time_limit (300)"),
        ("STOKER_JOB", "[1", "STOKER_JOB='...': is no valid JSON object"),
        ("STOKER_LOADERS", "[a", "STOKER_LOADERS='[a': is no valid JSON list"),
        ("STOKER_FLOWER__USER", "a:b", "STOKER_FLOWER__USER='a:b'"),
    ],
)
def test_a_wrong_value_is_told_with_its_variable_the_value_and_the_remedy(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    monkeypatch.setenv(name, value)
    text = refusal()
    assert told in text
    assert "secret" not in text


def test_all_wrong_values_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_MAX_SIZE", "x")
    monkeypatch.setenv("STOKER_JOB__BATCH", "0")
    monkeypatch.setenv("STOKER_NAMESPAC", "x")
    assert [line.split("=")[0] for line in refusal().splitlines()] == [
        "STOKER_NAMESPAC",
        "STOKER_MAX_SIZE",
        "STOKER_JOB__BATCH",
    ]


@pytest.mark.parametrize(
    ("name", "meant"),
    [("STOKER_CACHE_ULR", "STOKER_CACHE_URL"), ("STOKER_JOB__LOKC_TTL", "STOKER_JOB__LOCK_TTL")],
)
def test_an_unknown_name_is_an_error_that_suggests_the_nearest(
    monkeypatch: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    monkeypatch.setenv(name, "1")
    assert refusal() == f"{name}='(environment)': there is no such setting; did you mean {meant}?"


def test_an_unknown_name_in_the_env_file_is_an_error_too(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("STOKER_NAMSPACE=x\n")
    assert refusal() == "STOKER_NAMSPACE='(.env)': there is no such setting; did you mean STOKER_NAMESPACE?"


def test_an_unknown_argument_is_an_error() -> None:
    assert "did you mean namespace?" in refusal(namspace="x")


def test_names_of_other_programs_and_of_the_test_suite_are_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "amqp://elsewhere")
    monkeypatch.setenv("STOKER_TEST_REDIS_URL", "redis://elsewhere")
    assert Settings().broker_url is None


def test_secrets_are_shown_nowhere() -> None:
    settings = Settings(
        cache_url="redis://u:secret@h:1/0",
        broker_url="rediss://:secret@h:2/0",
        flower={"password": "secret"},
    )
    assert "secret" not in repr(settings).replace("secrets_dir", "").replace("/run/secrets", "")
    shown = {one.name: one.value for one in effective(settings)}
    assert shown["STOKER_CACHE_URL"] == "redis://u:***@h:1/0"
    assert shown["STOKER_BROKER_URL"] == "rediss://:***@h:2/0"
    assert shown["STOKER_FLOWER__PASSWORD"] == "***"


def test_every_setting_says_what_it_means() -> None:
    assert [one.name for one in effective(Settings()) if not one.description.endswith(".")] == []


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().namespace = "other"
