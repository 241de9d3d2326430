"""Rules: functions of the app that say what follows from an event.

    @on_event("user.updated")
    def user_updated(event: Event) -> list[Action]:
        return [Invalidate(pattern=f"user:{event['id']}:*"), Warm(keys=[f"user:{event['id']}"])]

Rules live in modules of `STOKER_LOADERS`. When they run, and what happens when they fail, is `react`'s business.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from stoker.cache.signatures import name_of, why_not_importable
from stoker.tasks import events
from stoker.tasks.actions import KINDS, Action, why_not_known
from stoker.tasks.errors import InvalidArguments, RuleError
from stoker.tasks.events import Event

MOST_ACTIONS = 1000
"""Of one rule for one event; what is more is a warm plan."""
Wanted = Action | Iterable[Action] | None
F = TypeVar("F", bound=Callable[[Event], Wanted])

_PATTERN = re.compile(r"([A-Za-z0-9_-]+|\*|#)(\.([A-Za-z0-9_-]+|\*|#))*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Rule:
    """A function and the events that it is called with.

    Attributes:
        name: `module:qualname`.
        patterns: Of the names of those events.
    """

    name: str
    patterns: tuple[str, ...]
    function: Callable[[Event], Wanted]

    def matches(self, event_name: str) -> bool:
        words = tuple(event_name.split("."))
        return any(_matches(tuple(pattern.split(".")), words) for pattern in self.patterns)

    def actions(self, event: Event) -> list[Action]:
        """What the rule wants done on this event, each with its tenant.

        Raises:
            RuleError: It gave something else.
            InvalidArguments: An action cannot be done.
            Exception: Whatever the function raises.
        """
        wanted = self.function(
            event.model_copy(deep=True)
        )  # what it changes there is changed for nobody else
        if wanted is None:
            return []
        given = [wanted] if isinstance(wanted, Action) else wanted
        if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
            raise RuleError(self.name, f"gave {type(wanted).__name__}; return an action or a list of actions")
        actions: list[Action] = []
        for action in given:
            if not isinstance(action, Action):
                raise RuleError(self.name, f"gave a list with {type(action).__name__}; let it hold actions")
            if not isinstance(action, KINDS):
                raise InvalidArguments(type(action).__name__, why_not_known())
            if len(actions) == MOST_ACTIONS:
                raise RuleError(
                    self.name, f"gave more than {MOST_ACTIONS:,} actions; name many keys in one, or a plan"
                )
            actions.append(action.of(event))
        return actions


@dataclass(frozen=True, slots=True)
class Explained:
    """What one rule would do.

    Attributes:
        rule: `module:qualname`.
        actions: In the order in which it gave them; what invalidates is done first.
        error: What it raised instead; empty otherwise.
    """

    rule: str
    actions: tuple[Action, ...]
    error: str = ""


_registered: dict[str, Rule] = {}


def on_event(*patterns: str) -> Callable[[F], F]:
    """Have the decorated function called with every event whose name matches one of the patterns.

    The function itself is not changed. It is given an `Event` and returns an action, a list of actions, or None. It may
    be called again for the same event, after a failure or when a worker was killed; so let it only say what to do.

    Args:
        patterns: An event's name, in which `*` stands for one word and `#` for any number of words, also none.

    Raises:
        RuleError: A pattern cannot be used, or no worker could import and call the function.
    """

    def register(function: F) -> F:
        name = _check_function(function)
        if not patterns:
            raise RuleError(name, 'name the events, such as @on_event("user.updated")')
        for pattern in patterns:
            if not isinstance(pattern, str) or not _PATTERN.fullmatch(pattern):
                raise RuleError(
                    name, f"pattern {pattern!r}: write words with dots between, * or #, such as user.*"
                )
        _registered[name] = Rule(name, patterns, function)
        return function

    return register


def _check_function(function: Any) -> str:
    """The rule's name, or RuleError unless a worker could import and call the function."""
    if not inspect.isfunction(function):
        raise RuleError(repr(function), "it is no plain function")
    name = name_of(function)
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise RuleError(name, "it is asynchronous; write a plain function")
    if (reason := why_not_importable(function)) is not None:
        raise RuleError(name, f"no worker could import it: {reason}")
    try:
        inspect.signature(function).bind(None)
    except TypeError as error:
        raise RuleError(name, f"it is called with the event alone: {error}") from None
    return name


def matching(event_name: str) -> list[Rule]:
    """The rules for events of this name, in the order of their registration."""
    return [rule for rule in _registered.values() if rule.matches(event_name)]


def named(name: str) -> Rule | None:
    """The rule of this name, if this process has imported it."""
    return _registered.get(name)


def known() -> dict[str, str]:
    """Every rule that this process has imported, with its patterns."""
    return {rule.name: ", ".join(rule.patterns) for rule in _registered.values()}


def explain_event(name: str, payload: Mapping[str, Any], tenant_id: str | None = None) -> list[Explained]:
    """What would follow from such an event, by the rules that are imported here. Nothing is done; no server is needed.

    Raises:
        InvalidArguments: It could not be published.
    """
    event = events.make(name, payload, tenant_id, None)
    return [_explained(rule, event) for rule in matching(name)]


def _explained(rule: Rule, event: Event) -> Explained:
    try:
        return Explained(rule.name, tuple(rule.actions(event)))
    except Exception as error:  # whatever the app's function raises is the explanation
        return Explained(rule.name, (), f"{type(error).__name__}: {error}")


@lru_cache(maxsize=4096)
def _matches(pattern: tuple[str, ...], words: tuple[str, ...]) -> bool:
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(_matches(pattern[1:], words[skipped:]) for skipped in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and _matches(pattern[1:], words[1:])
