"""Rules: which events they are about, what they may ask for, and what is refused at import. No server is needed."""

from typing import Any

import pytest

from stoker.tasks import (
    Evict,
    Explained,
    InvalidArguments,
    Invalidate,
    InvalidateTags,
    Refresh,
    RuleError,
    Warm,
    explain_event,
    on_event,
    rules,
)
from tests.tasks import reacting
from tests.tasks.reacting import an_event


@pytest.mark.parametrize(
    ("pattern", "fitting", "others"),
    [
        ("user.updated", ["user.updated"], ["user", "user.updated.now", "other.updated", "user.updatedx"]),
        ("user.*", ["user.updated", "user.deleted"], ["user", "user.email.changed", "users.updated"]),
        ("user.#", ["user", "user.updated", "user.email.changed"], ["users", "admin.user"]),
        ("#", ["user", "user.updated"], []),
        ("*", ["user"], ["user.updated"]),
        ("*.changed", ["user.changed"], ["changed", "a.b.changed"]),
        ("#.changed", ["changed", "a.b.changed"], ["changed.a"]),
        ("a.#.z.*", ["a.z.q", "a.b.c.z.q"], ["a.z", "a.b.z.q.r"]),
    ],
)
def test_a_rule_is_called_with_the_events_that_its_pattern_names_as_in_amqp(
    pattern: str, fitting: list[str], others: list[str]
) -> None:
    on_event(pattern)(reacting.counts)
    assert [name for name in [*fitting, *others] if rules.matching(name)] == fitting


def test_what_follows_from_an_event_is_told_without_a_server() -> None:
    on_event("user.updated")(reacting.invalidates)
    on_event("user.*", "item.changed")(reacting.invalidates_and_warms)
    assert explain_event("user.updated", {"id": 7, "number": 8}, "acme") == [
        Explained("tests.tasks.reacting:invalidates", (Invalidate(pattern="user:7:*", tenant_id="acme"),)),
        Explained(
            "tests.tasks.reacting:invalidates_and_warms",
            (Warm(["reacting:8"], tenant_id="acme"), Invalidate(["reacting:8"], tenant_id="acme")),
        ),
    ]
    assert [found.rule for found in explain_event("item.changed", {"number": 1})] == [
        "tests.tasks.reacting:invalidates_and_warms"
    ]
    assert explain_event("nobody.cares", {}) == []
    assert explain_event("user.updated", {"number": 8})[0].error == "KeyError: 'id'"
    with pytest.raises(InvalidArguments, match=r"name='user\.': must be words"):
        explain_event("user.", {})


@pytest.mark.parametrize(
    ("wanted", "actions"),
    [
        (None, ()),
        ([], ()),
        (Evict(), (Evict(),)),
        (iter([Refresh(["k"])]), (Refresh(["k"], tenant_id="acme"),)),
        (InvalidateTags(["t"]), (InvalidateTags(["t"], tenant_id="acme"),)),
        (Warm(plan="home"), (Warm(plan="home", tenant_id="acme"),)),
        (Invalidate(whole_tenant=True), (Invalidate(whole_tenant=True, tenant_id="acme"),)),
        (Warm(["k"], tenant_id="other"), (Warm(["k"], tenant_id="other"),)),
        (Warm(["k"], tenant_id=None), (Warm(["k"], tenant_id=None),)),
    ],
)
def test_an_action_without_a_tenant_takes_the_events(wanted: Any, actions: tuple[object, ...]) -> None:
    event = an_event(tenant_id="acme")
    rule = rules.Rule("r", ("#",), lambda _event: wanted)
    assert tuple(rule.actions(event)) == actions


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ("rubbish", "gave str; return an action or a list of actions"),
        (7, "gave int"),
        ([Evict(), "x"], "gave a list with str; let it hold actions"),
        ([Evict()] * 1001, "gave more than 1,000 actions"),
        (Invalidate(), "name what to invalidate"),
        (Invalidate(pattern="[a"), "pattern '[a'"),
        (InvalidateTags([]), "name what to invalidate"),
        (Warm(), "keys: give 1 to 100,000"),
        (Warm(["k"], plan="p"), "give keys, or a plan and nothing else"),
        (Warm(plan="a b"), "a plan's name is"),
        (Refresh([""]), "must not be empty"),
        (Evict(-1), "target_bytes=-1"),
        (
            reacting.Unknown(),
            "Unknown: there is no such action; use Invalidate, InvalidateTags, Warm, Refresh, Evict",
        ),
        (Warm(["k"], tenant_id=""), "tenant_id '': must not be empty"),
    ],
)
def test_what_a_rule_cannot_ask_for_is_said_with_the_reason(wanted: Any, told: str) -> None:
    rule = rules.Rule("r", ("#",), lambda _event: wanted)
    with pytest.raises((RuleError, InvalidArguments)) as refused:
        rule.actions(an_event())
    assert told in str(refused.value)


def test_an_action_takes_a_list_and_no_single_text() -> None:
    with pytest.raises(InvalidArguments, match="keys='user:1': give a list"):
        Invalidate("user:1")


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda _: None, "it is a lambda"),
        (reacting.takes_two, "it is called with the event alone: missing a required argument: 'other'"),
        (reacting.is_asynchronous, "it is asynchronous"),
        (print, "it is no plain function"),
    ],
)
def test_a_function_that_no_worker_could_call_is_refused_at_import(function: Any, told: str) -> None:
    with pytest.raises(RuleError) as refused:
        on_event("user.updated")(function)
    assert told in str(refused.value)


@pytest.mark.parametrize("patterns", [(), ("",), ("user..x",), ("user.**",), ("us*r",), (7,)])
def test_a_pattern_that_could_never_match_is_refused_at_import(patterns: Any) -> None:
    with pytest.raises(RuleError, match=r"name the events|write words with dots between"):
        on_event(*patterns)(reacting.counts)
