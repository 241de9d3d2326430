"""Bad input is refused before anything happens, with the field, the value and what to do."""

import re
from datetime import timedelta
from typing import Any

import pytest

from stoker.cache import Cache, CacheConfig, CacheError, ConfigError, InvalidName, InvalidPattern
from stoker.cache.options import masked_url


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"backend": "memcached"}, "backend='memcached': choose 'memory' or 'redis'"),
        ({"backend": "redis"}, "redis_url=None: give the server's URL"),
        ({"backend": "redis", "redis_url": "localhost:6379"}, "start it with redis://"),
        ({"backend": "redis", "redis_url": "http://localhost"}, "start it with redis://"),
        ({"backend": "redis", "redis_url": "redis://localhost:port"}, "redis_url='redis://localhost:port'"),
        ({"default_ttl": -1}, "default_ttl=-1: give seconds above 0"),
        ({"default_ttl": float("nan")}, "default_ttl=nan"),
        ({"max_size": 0}, "max_size=0: give a whole number"),
        ({"namespace": "a:b"}, "namespace='a:b': use 1 to 64"),
        ({"namespace": ""}, "namespace=''"),
        ({"lease": 61}, "lease=61: give a number from 0.1 to 60"),
        ({"max_load": 0}, "max_load=0: give a number from 0.1 to 3600"),
        ({"max_loads": 0}, "max_loads=0: give a whole number, at least 1"),
        ({"early_refresh": -1}, "early_refresh=-1: give a number from 0 to 100"),
        ({"ttl_jitter": 1}, "ttl_jitter=1: give a number from 0 to 0.5"),
        ({"timeout": 0}, "timeout=0"),
        ({"max_connections": 0}, "max_connections=0"),
        ({"breaker_failures": 0}, "breaker_failures=0: give a whole number, at least 1"),
        ({"breaker_reset": 0}, "breaker_reset=0"),
        ({"boot_fence": "no"}, "boot_fence='no': choose 'run_id' or 'off'"),
        ({"low_watermark": 0.95}, "low_watermark=0.95: must be below high_watermark"),
        ({"max_value_bytes": 1}, "max_value_bytes=1: give at least 1024"),
        ({"compress_above": -1}, "compress_above=-1"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_remedy(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        CacheConfig(**fields)


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(TypeError, match="max_sice"):
        CacheConfig(max_sice=1)  # type: ignore[call-arg]


def test_a_password_is_never_shown() -> None:
    config = CacheConfig(backend="redis", redis_url="redis://app:s3cret@localhost/0")
    assert "s3cret" not in repr(config)
    assert masked_url("redis://:s3cret@localhost/0") == "redis://:***@localhost/0"
    assert masked_url("redis://:a/b@host") == "redis://:***@host"
    assert masked_url("redis://u:p@ss@host/0") == "redis://u:***@host/0"
    assert masked_url("redis://host/0?password=s3cret&db=1") == "redis://host/0?password=***&db=1"
    assert masked_url("redis://localhost:6379/0") == "redis://localhost:6379/0"
    with pytest.raises(ConfigError) as caught:
        CacheConfig(backend="redis", redis_url="http://app:s3cret@localhost/0")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("ttl", [0, -1, float("inf"), float("nan"), True, "60", timedelta(0), 400_000_000])
def test_a_ttl_must_be_a_positive_number_of_seconds(cache: Cache, ttl: Any) -> None:
    with pytest.raises(ConfigError, match=r"ttl=.*: give seconds above 0"):
        cache.set("k", 1, ttl=ttl)
    assert cache.get("k") is None


@pytest.mark.parametrize("ttl", [1, 0.5, timedelta(minutes=1)])
def test_seconds_may_be_int_float_or_timedelta(cache: Cache, ttl: Any) -> None:
    cache.set("k", 1, ttl=ttl)
    assert cache.get("k") == 1


def test_a_soft_ttl_must_be_shorter_than_the_ttl(cache: Cache) -> None:
    with pytest.raises(ConfigError, match="soft_ttl=60: must be below the ttl of 60 s"):
        cache.set("k", 1, ttl=60, soft_ttl=60)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("", "must not be empty"),
        ("k" * 1025, "at most 1024 bytes"),
        ("é" * 513, "is 1026"),
        (7, "must be a str"),
        ("\ud800", "lone surrogate"),
    ],
)
def test_a_key_must_be_1_to_1024_bytes_of_text(cache: Cache, key: Any, message: str) -> None:
    for operation in (
        cache.get,
        cache.delete,
        cache.explain,
        lambda k: cache.set(k, 1),
        lambda k: cache.get_many([k]),
    ):
        with pytest.raises(InvalidName, match=message):
            operation(key)
    with pytest.raises(InvalidName, match=message):
        cache.get_or_load(key, lambda: 1)


def test_the_longest_key_works(cache: Cache) -> None:
    for key in ("k" * 1024, "é" * 512):
        cache.set(key, 1)
        assert cache.get(key) == 1


@pytest.mark.parametrize(
    ("tenant", "message"), [("", "must not be empty"), (7, "must be a str"), ("t" * 513, "at most 512")]
)
def test_a_tenant_must_have_a_name(cache: Cache, tenant: Any, message: str) -> None:
    for operation in (
        lambda: cache.get("k", tenant),
        lambda: cache.get_many(["k"], tenant),
        lambda: cache.set("k", 1, tenant),
        lambda: cache.delete("k", tenant),
        lambda: cache.get_or_load("k", lambda: 1, tenant),
        lambda: cache.snapshot("k", tenant),
        lambda: cache.invalidate_tenant(tenant),
        lambda: cache.invalidate_pattern("*", tenant),
        lambda: cache.invalidate_tags(["t"], tenant),
        lambda: cache.warm(["k"], tenant),
    ):
        with pytest.raises(InvalidName, match=message):
            operation()


@pytest.mark.parametrize("tags", ["users", [""], [7], ["a\0b"], ["t" * 257], [f"t{i}" for i in range(65)]])
def test_tags_are_a_list_of_short_names(cache: Cache, tags: Any) -> None:
    with pytest.raises(InvalidName, match="tag"):
        cache.set("k", 1, tags=tags)
    with pytest.raises(InvalidName, match="tag"):
        cache.invalidate_tags(tags)


def test_invalidating_no_tag_is_refused(cache: Cache) -> None:
    with pytest.raises(InvalidName, match="at least one tag"):
        cache.invalidate_tags([])


@pytest.mark.parametrize("pattern", ["user:[1", "user:[]", "user:\\", "user:[z-a]", "", "x" * 513])
def test_a_malformed_pattern_is_refused_and_kills_nothing(cache: Cache, pattern: str) -> None:
    cache.set("user:1", 1)
    with pytest.raises(InvalidPattern, match="pattern"):
        cache.invalidate_pattern(pattern)
    assert cache.get("user:1") == 1


def test_a_hold_is_at_most_the_longest_load(cache: Cache) -> None:
    with pytest.raises(ConfigError, match="hold=61: must be at most max_load=60"):
        cache.snapshot("k", hold=61)


def test_keys_to_warm_are_not_one_str(cache: Cache) -> None:
    with pytest.raises(InvalidName, match="give a list of keys"):
        cache.warm("user:1")
    with pytest.raises(InvalidName, match="come by tenant already"):
        cache.warm({"acme": ["user:1"]}, "acme")


def test_len_on_redis_names_what_to_use(make_redis: Any) -> None:
    with pytest.raises(TypeError, match=r"stats\(\)"):
        len(make_redis())


def test_every_error_of_ours_has_one_base_and_survives_pickling() -> None:
    import pickle

    for error in (ConfigError("f", 1, "r"), InvalidName("key", "", "r"), InvalidPattern("[", 0, "r")):
        assert isinstance(error, CacheError)
        assert isinstance(error, ValueError)
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
