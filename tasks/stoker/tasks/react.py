"""Reacting to events: the task that runs the app's rules. What they may ask for is `actions`' business.

Each rule has its own outcome for each event. What it raises costs nobody else anything: where several rules match, each
is run by a task of its own; one that fails is tried again later, and after some tries is a dead letter.
"""

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

from celery.exceptions import Reject, SoftTimeLimitExceeded
from kombu.exceptions import OperationalError

from stoker.cache import CacheUnavailable
from stoker.tasks import actions, events, names, rules, runtime
from stoker.tasks.app import app
from stoker.tasks.base import LONGEST_WAIT, MAX_TRIES, JobTask
from stoker.tasks.errors import InvalidArguments, NotSent, StateUnavailable
from stoker.tasks.event_record import DeadLetter
from stoker.tasks.event_store import Claimed, NotClaimed
from stoker.tasks.events import MOST_NESTED, Event
from stoker.tasks.renewal import Renewal
from stoker.tasks.runtime import Runtime

log = logging.getLogger(__name__)

GRACE = 10.0
"""Seconds from the time limit of a rule, which it may catch, to the end of its process."""
_AFTER = 0.1


@app.task(name=names.REACT, bind=True, shared=False, base=JobTask)
def react(self: JobTask, /, **message: Any) -> None:
    """Run the rules for an event, or one of them. See `names.React` for the arguments.

    Safe to run twice: what is done is known for a while, and what is being done is claimed. An event that is refused
    is a dead letter.
    """
    here = runtime.current()
    try:
        try:
            arguments = cast("names.React", names.check(self.name, message))
            event = events.parse(arguments.event)
        except InvalidArguments as error:
            log.error("an event is refused: %s", error)
            here.events.refuse(message.get("event", message), str(error))
        else:
            _react(here, event, arguments.rule)
    except StateUnavailable as error:
        _put_off(message, error)


def ask(event: Mapping[str, Any], rule: str | None = None, *, delay: float = 0) -> None:
    """Have a worker run the rules for an event, or one of them, `delay` seconds from now.

    Raises:
        InvalidArguments: It is no mapping, or nested too deeply to be sent.
        NotSent: The broker did not take it.
    """
    _send(_message(event, rule), delay)


def replay(letter: DeadLetter) -> None:
    """Have a dead letter's rule run again. Raises as `ask`; then the letter stays."""
    store = runtime.current().events
    message = _message(letter.event, letter.rule or None)
    store.revive(letter)
    _send(message)
    store.forget(letter)


def _message(event: Any, rule: str | None) -> dict[str, Any]:
    """What is sent. Raises InvalidArguments, also for what can be read here but might stop those who read it next."""
    message = {"event": event} if rule is None else {"event": event, "rule": rule}
    names.check(names.REACT, message)
    if events.is_nested_too_deeply(event, MOST_NESTED + 1):
        raise InvalidArguments(names.REACT, f"event: it is nested more than {MOST_NESTED} levels deep")
    return message


def _send(message: Mapping[str, Any], delay: float = 0) -> None:
    limit = runtime.current().settings.event.time_limit
    limits: dict[str, Any] = {"soft_time_limit": limit, "time_limit": limit + GRACE}
    try:
        app.send_task(names.REACT, kwargs=dict(message), countdown=delay or None, **limits)
    except OperationalError as error:
        raise NotSent(names.REACT, str(error)) from error


def _react(here: Runtime, event: Event, only: str | None) -> None:
    if only is not None:
        _run(here, event, only)
        return
    matching = [rule.name for rule in rules.matching(event.name)]
    if not here.events.accept(event, matching):
        here.events.note(
            event, "again"
        )  # perhaps because a process was killed: what is done is not done again
    elif not matching:
        here.events.note(event, "unmatched")
    if len(matching) == 1:
        _run(here, event, matching[0])
    else:
        for rule in matching:
            _ask_or_give_back(event, rule)


def _run(here: Runtime, event: Event, rule: str) -> None:
    claim = here.events.claim(event, rule)
    if isinstance(claim, NotClaimed):
        if (
            claim.reason == "busy"
        ):  # whoever runs it may be alive or dead: look again when its claim has ended
            _ask_or_give_back(event, rule, delay=claim.wait + _AFTER)
        return
    if claim.runs > here.settings.event.tries:
        reason = f"given up after {claim.runs - 1} runs; each was killed or ran into its time limit"
        _give_up(here, event, rule, claim, reason)
        return
    try:
        held = partial(here.events.hold, event, rule, claim.token)
        with Renewal(f"claim of event {event.id}", here.events.claim_ttl, held):
            _do(here, event, rule, claim.token)
    except SoftTimeLimitExceeded:
        limit = here.settings.event.time_limit
        _failed(here, event, rule, claim, f"it was stopped after {limit:g} s, the time limit of a rule")
    except (CacheUnavailable, NotSent, StateUnavailable) as error:
        _later(here, event, rule, claim, _text(error))
    except Exception as error:  # whatever the app's function raises is the rule's outcome
        log.warning("rule %s failed for event %s (%s)", rule, event.name, event.id, exc_info=True)
        _failed(here, event, rule, claim, _text(error))
    else:
        here.events.end(event, rule, claim.token, "done")


def _do(here: Runtime, event: Event, name: str, run: str) -> None:
    rule = rules.named(name)
    if rule is None:
        remedy = "name its module in STOKER_LOADERS of every worker that serves the queue events"
        raise LookupError(f"this worker has not imported {name}; {remedy}")
    actions.perform(rule.actions(event), event, here, run)


def _failed(here: Runtime, event: Event, rule: str, claim: Claimed, error: str) -> None:
    settings = here.settings.event
    if claim.runs >= settings.tries:
        _give_up(here, event, rule, claim, error)
        return
    delay = settings.backoff * 2 ** (claim.runs - 1)
    if here.events.end(event, rule, claim.token, "failed", error, delay):
        _ask_or_give_back(event, rule, delay=delay)


def _later(here: Runtime, event: Event, rule: str, claim: Claimed, error: str) -> None:
    """A server is away, which is not the rule's fault: be patient."""
    if claim.waits >= MAX_TRIES:
        _give_up(here, event, rule, claim, error)
        return
    log.warning("rule %s for event %s (%s) is put off: %s", rule, event.name, event.id, error)
    delay = _wait(claim.waits)
    if here.events.end(event, rule, claim.token, "later", error, delay):
        _ask_or_give_back(event, rule, delay=delay)


def _give_up(here: Runtime, event: Event, rule: str, claim: Claimed, error: str) -> None:
    log.error(
        "event %s (%s) is a dead letter of rule %s after %d runs: %s",
        event.name,
        event.id,
        rule,
        claim.runs,
        error,
    )
    here.events.end(event, rule, claim.token, "dead", error)


def _put_off(message: dict[str, Any], error: StateUnavailable) -> None:
    """Without the state server nothing is known of the event: try again later, as it came, refused or not."""
    waits = message.get("waits")
    waits = max(waits, 0) if isinstance(waits, int) else 0
    if waits >= MAX_TRIES:
        log.error("an event is lost after %d tries, for %s: %.500r", waits, error, message)
        raise error
    try:
        _send({**message, "waits": waits + 1}, _wait(waits))
    except NotSent as unsent:
        raise Reject(str(unsent), requeue=True) from unsent


def _ask_or_give_back(event: Event, rule: str, delay: float = 0) -> None:
    """Send a message for this rule; if that fails this one's message goes back to its queue."""
    try:
        ask(event.model_dump(), rule, delay=delay)
    except NotSent as error:
        raise Reject(str(error), requeue=True) from error


def _wait(tries: int) -> float:
    return min(2.0 ** min(tries, MAX_TRIES), LONGEST_WAIT)


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
