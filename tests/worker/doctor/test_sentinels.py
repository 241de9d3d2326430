"""What the doctor says of a cache and a broker whose primary Sentinels name."""

from collections.abc import Iterator

import pytest

from stoker.config import Settings
from stoker.worker.doctor.check import Severity
from stoker.worker.doctor.run import diagnose
from tests.sentinels import NAME, Group, sentinel_group
from tests.worker.doctor.asking import ERROR, WARNING, found


@pytest.fixture(scope="module")
def group() -> Iterator[Group]:
    with sentinel_group(locked=True) as group:
        yield group


def test_a_group_in_order_is_told_and_its_primary_looked_at(group: Group) -> None:
    findings = list(diagnose(Settings(cache_url=group.url), ["redis"]))
    assert {finding.severity for finding in findings} == {Severity.OK}
    primary = f"127.0.0.1:{group.servers[0].port}"
    assert f"1 Sentinel of {NAME} asked, 1 known, primary {primary}, 1 replica" in [f.seen for f in findings]
    assert any(f"at {primary} answers in" in finding.seen for finding in findings)
    assert "secret" not in str(findings)


def test_a_name_that_nobody_monitors_is_told_with_the_setting(group: Group) -> None:
    first, second = found("redis", cache_url=group.url.replace(NAME, "another"))
    assert (first.severity, second.severity) == (ERROR, ERROR)
    assert "monitors no primary called 'another'" in first.seen
    assert "STOKER_CACHE_URL" in first.remedy


def test_a_sentinel_that_is_gone_is_told_and_the_others_are_asked(group: Group) -> None:
    url = group.url.replace("@", "@127.0.0.1:1,")
    [finding] = found("redis", cache_url=url)
    assert finding.severity is WARNING
    assert "the Sentinel at 127.0.0.1:1 gives no good answer" in finding.seen


def test_the_brokers_sentinels_are_looked_at_too(group: Group) -> None:
    findings = found("broker", broker_url=group.url.replace(NAME, "another"))
    assert "STOKER_BROKER_URL" in findings[0].remedy
