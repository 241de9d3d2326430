"""What an invalidation means: which rules of the ban log it becomes."""

from collections.abc import Iterable

from stoker.cache import patterns
from stoker.cache.bans import Kind, Rule
from stoker.cache.errors import InvalidName
from stoker.cache.tenancy import check_tags, tenant_field


def pattern_rule(pattern: str, tenant_id: str | None) -> Rule:
    """The cheapest rule that says the same as the pattern: `*` kills the tenant, `literal*` a prefix.

    Raises:
        InvalidPattern: It does not follow the grammar of `patterns`.
    """
    kind, argument = patterns.classify(pattern)
    return Rule(Kind[kind.name], tenant_field(tenant_id), argument)


def tag_rules(tags: Iterable[str], tenant_id: str | None) -> list[Rule]:
    """One rule a tag; an entry dies if it carries any of them."""
    checked = check_tags(tags)
    if not checked:
        raise InvalidName("tags", tags, "name at least one tag")
    return [Rule(Kind.TAG, tenant_field(tenant_id), tag) for tag in checked]


def tenant_rule(tenant_id: str | None) -> Rule:
    """Everything of the tenant; None is the shared key space."""
    return Rule(Kind.TENANT, tenant_field(tenant_id), "")
