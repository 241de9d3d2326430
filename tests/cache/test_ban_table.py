"""The table of rules that readers judge by: exact, without a lock, and forgetful of what is needless only."""

import random
import sys
import threading
from collections.abc import Iterator

from stoker.cache.bans import BanTable, Kind, Rule
from stoker.cache.invalidate import pattern_rule, tag_rules, tenant_rule
from stoker.cache.patterns import compile_pattern
from tests.cache.ban_world import TENANTS, some_rules


def test_a_table_kills_what_its_rules_kill_and_forgets_only_needless_ones() -> None:
    for _ in range(100):
        seed = random.randrange(2**32)
        chance = random.Random(seed)
        table, said = BanTable(), []
        for seq in range(1, chance.randrange(2, 40)):
            for rule in some_rules(chance, chance.choice(TENANTS))[0]:
                table.add(rule, seq)
                said.append((rule, seq))
            if chance.random() < 0.1:
                floor = chance.randrange(seq)
                table, said = table.above(floor), [one for one in said if one[1] > floor]
        live = 0
        for tenant in ("", "acme"):
            mine = [one for one in said if one[0].tenant == tenant]
            for key in ("user:0", "user:1", "user:12", "post:1"):
                for tags in ((), ("group 0",), ("nobody's", "group 2")):
                    deadly = max((seq for rule, seq in mine if names(rule, key, tags)), default=0)
                    assert table.newest >= deadly, f"seed={seed}"
                    by_name = any(names(rule, key, ()) for rule, _ in mine)
                    assert not by_name or f"{tenant}:{key}".startswith(table.common_prefix()), f"seed={seed}"
                    for seq in range(42):
                        assert table.kills(tenant, key, tags, seq) == (deadly > seq), f"seed={seed}"
            ended = max((seq for rule, seq in mine if rule.kind is Kind.TENANT), default=0)
            left = {rule for rule, seq in mine if seq > ended}
            patterns = sum(rule.kind is Kind.PATTERN for rule in left)
            live += len(left) + bool(ended)
            sizes = [size for size in table.sizes() if size.tenant == tenant]
            assert sizes == [(tenant, patterns, len(left) - patterns)] or not mine, f"seed={seed}"
        assert len(table) == live, f"seed={seed}"


def names(rule: Rule, key: str, tags: tuple[str, ...]) -> bool:
    if rule.kind is Kind.TAG:
        return rule.argument in tags
    if rule.kind is Kind.PREFIX:
        return key.startswith(rule.argument)
    return rule.kind is Kind.TENANT or compile_pattern(rule.argument)(key)


def test_a_reader_in_the_middle_of_a_lookup_keeps_the_rules_that_go() -> None:
    table = BanTable()
    table.add(tag_rules(["t"], None)[0], 5)
    table.add(pattern_rule("k?", None), 5)

    def tags_while_the_tenant_is_banned(*tags: str) -> Iterator[str]:
        table.add(tenant_rule(None), 6)
        yield from tags

    assert table.kills("", "other", tags_while_the_tenant_is_banned("t"), 4)
    table = table.above(6)
    table.add(pattern_rule("k?", None), 7)
    table.add(tag_rules(["t"], None)[0], 7)
    assert table.kills("", "k1", tags_while_the_tenant_is_banned("u"), 6)


def test_readers_need_no_lock_beside_additions() -> None:
    table, failures, over = BanTable(), [], threading.Event()
    interval = sys.getswitchinterval()

    def look() -> None:
        try:
            while not over.is_set():
                begun = len(table) < 3
                assert table.kills("t1", "k", ("t",), 0) or begun
                table.has_tags()
                table.sizes()
        except Exception as error:
            failures.append(error)

    readers = [threading.Thread(target=look) for _ in range(2)]
    try:
        sys.setswitchinterval(1e-6)
        for reader in readers:
            reader.start()
        for n in range(3000):
            table.add(Rule(Kind.TAG, f"t{n % 500}", "t"), n + 1)
            table.add(Rule(Kind.TENANT, f"t{n % 300}", ""), n + 1)
    finally:
        over.set()
        for reader in readers:
            reader.join()
        sys.setswitchinterval(interval)
    assert failures == []
