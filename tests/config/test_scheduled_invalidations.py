"""Invalidations by the clock: how they are written, and what is refused."""

import json

import pytest

from stoker.config import InvalidSettings, Settings, Timing


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[", "is no valid JSON list"),
        ("{}", "must be a list of objects, such as"),
        ("[7]", "must be a list of objects, such as"),
        ('[{"pattern": "*", "every": "1h"}]', "invalidation 1: name="),
        ('[{"name": "a b", "pattern": "*", "every": "1h"}]', "a name is 1 to 64 of A-Z a-z 0-9 _ . and -"),
        (
            '[{"name": "a", "every": "1h"}]',
            "invalidation 'a': name what to invalidate: keys, tags, a pattern",
        ),
        ('[{"name": "a", "pattern": "*"}]', "invalidation 'a': give every or cron"),
        ('[{"name": "a", "pattern": "*", "every": "1h", "cron": "* * * * *"}]', "every or cron, not both"),
        ('[{"name": "a", "pattern": "*", "every": "5"}]', "every='5': write a number and its unit"),
        ('[{"name": "a", "pattern": "*", "cron": "0 25 * * *"}]', "Invalid end range: 25 > 23"),
        ('[{"name": "a", "pattern": "[", "every": "1h"}]', "invalidation 'a': pattern"),
        ('[{"name": "a", "pattern": 7, "every": "1h"}]', "pattern=7: Input should be a valid string"),
        ('[{"name": "a", "keys": "x", "every": "1h"}]', "keys='x': Input should be a valid tuple"),
        ('[{"name": "a", "keys": [""], "every": "1h"}]', "key '': must not be empty"),
        ('[{"name": "a", "tags": [""], "every": "1h"}]', "tag '': must not be empty"),
        ('[{"name": "a", "whole_tenant": true, "every": "1h"}]', "name the tenant_id"),
        ('[{"name": "a", "pattern": "*", "tenant_id": 7, "every": "1h"}]', "tenant_id 7: must be a str"),
        ('[{"name": "a", "pattern": "*", "evry": "1h"}]', "evry='1h': Extra inputs are not permitted"),
        (
            '[{"name": "a", "pattern": "*", "every": "1h"}, {"name": "a", "tags": ["t"], "every": "1h"}]',
            "invalidation 'a': its name comes twice; rename one",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_name_field_and_reason(
    text: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOKER_SCHEDULED_INVALIDATIONS", text)
    with pytest.raises(InvalidSettings) as refused:
        Settings()
    assert str(refused.value).startswith("STOKER_SCHEDULED_INVALIDATIONS=")
    assert told in str(refused.value)


def test_they_name_what_a_task_takes_and_when(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [
        {"name": "prices", "pattern": "price:*", "tenant_id": "acme", "cron": "0  6 * * *"},
        {"name": "news", "tags": ["news", "news"], "keys": ["home"], "every": "10m"},
        {"name": "all", "whole_tenant": True, "tenant_id": "acme", "every": 60},
    ]
    monkeypatch.setenv("STOKER_SCHEDULED_INVALIDATIONS", json.dumps(given))
    prices, news, everything = Settings().scheduled_invalidations
    assert (prices.cron, prices.arguments()) == ("0 6 * * *", {"pattern": "price:*", "tenant_id": "acme"})
    assert (news.every, news.arguments()) == (600, {"tags": ["news"], "keys": ["home"]})
    assert everything.arguments() == {"whole_tenant": True, "tenant_id": "acme"}


@pytest.mark.parametrize(
    ("cron", "days"),
    [
        ("*/5 * * * *", 1),
        ("0 3 * * *", 1),
        ("0 9 * * mon-fri", 3),
        ("0 0 1 * *", 31),
        ("0 0 1 1 *", 366),
        ("0 0 29 2 *", 4 * 365 + 1),
    ],
)
def test_a_cron_pauses_for_so_many_days_at_most(cron: str, days: int) -> None:
    assert Timing(cron=cron).longest_pause() == days * 86_400


def test_an_interval_pauses_for_itself() -> None:
    assert Timing(every=90).longest_pause() == 90
    assert Timing().longest_pause() is None
