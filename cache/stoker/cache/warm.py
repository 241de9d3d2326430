"""Filling keys before anybody asks: a stream of keys becomes units of `work`, which lanes do side by side.

Lanes are threads of this process, tasks of its event loop, or those of other processes that share the work. What
becomes of one unit is `warm_unit`'s business. A warm may be killed anywhere: what was done stays done.
"""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from itertools import islice, repeat
from typing import Any, cast

from stoker.cache.budget import Limit, limit_of
from stoker.cache.errors import ConfigError, InvalidName
from stoker.cache.loaders import Registry
from stoker.cache.programs import Effect, Landed, Lane, Program, Steps, Wait
from stoker.cache.protocol import Name
from stoker.cache.steps import Step
from stoker.cache.tenancy import all_plain, check_key, tenant_field
from stoker.cache.warm_report import Outcome, WarmReport
from stoker.cache.warm_unit import Crew, OverError, UnitWarmer
from stoker.cache.work import Unit, Work

LOOK_S = 0.25
"""Longest time between two looks at how the work stands."""
PACE_S = 0.05
"""Shortest time between two steps."""

Keys = Iterable[str] | Iterable[tuple[str | None, str]] | Mapping[str, Iterable[str]]
"""Keys of one tenant, or (tenant, key) pairs, or keys by tenant. Of pairs, a malformed one fails alone."""
Page = list[Name | InvalidName]


@dataclass(slots=True)
class Warmer:
    """One warm.

    Attributes:
        landed: Makes the events that lanes and the warm wait for.
        limits: Of the whole warm, besides those of its loaders.
    """

    work: Work
    units: UnitWarmer
    registry: Registry
    landed: Callable[[], Landed]
    limits: Sequence[Limit] = ()

    def steps(self, keys: Keys, tenant_id: str | None, batch: int, lanes: int) -> Steps[WarmReport]:
        """Deal the keys and have them warmed, yielding how that goes."""
        for name, number in (("batch", batch), ("lanes", lanes)):
            if number < 1:
                raise ConfigError(name, number, "must be 1 or more")
        names, total = _names(keys, tenant_id, batch)
        return self._with_lanes(lanes, lambda crew: self._deal(crew, names, total, batch), total)

    def help(self, lanes: int) -> Steps[WarmReport]:
        """Do what another warm deals, until nothing is left of it."""
        return self._with_lanes(lanes, None, None)

    def _with_lanes(
        self, lanes: int, deal: Callable[[Crew], Steps[WarmReport]] | None, total: int | None
    ) -> Steps[WarmReport]:
        crew = Crew(self.landed)
        try:
            for _ in range(lanes):
                yield Lane(self._lane(crew))
            if deal is not None:
                yield from deal(crew)
            while not (yield from self._look(crew, total)):
                yield Wait(crew.ended, PACE_S)
                yield Wait(crew.moved, LOOK_S)
        finally:
            crew.over = True
            crew.dealt.set()

    def _deal(
        self, crew: Crew, names: Iterator[Name | InvalidName], total: int | None, batch: int
    ) -> Steps[WarmReport]:
        """Make units of the keys, as long as there is room for them; from where an earlier warm of this work was."""
        tally = self.work.tally()
        if tally.closed:
            return
        looked = time.monotonic()
        for page in self._pages(islice(names, tally.dealt, None), batch):
            usable, bad = _sorted(page)
            while not self.work.deal(usable, bad):
                if (yield from self._look(crew, total)):
                    return
                looked = time.monotonic()
                yield Wait(crew.moved, LOOK_S)
            self._tell_lanes(crew)
            if time.monotonic() - looked > LOOK_S:
                if (yield from self._look(crew, total)):
                    return
                looked = time.monotonic()
        self.work.close()
        self._tell_lanes(crew)

    def _tell_lanes(self, crew: Crew) -> None:
        crew.dealt, dealt = self.landed(), crew.dealt
        dealt.set()

    def _pages(self, names: Iterator[Name | InvalidName], batch: int) -> Iterator[Page]:
        """The names in batches, none with more keys of a loader, or of the warm, than may be asked for at once."""
        batch = min((limit.most_keys(batch) for limit in self.limits), default=batch)
        limited = {
            loader.name: limit_of(loader).most_keys(batch)
            for loader in self.registry.loaders()
            if loader.rate is not None
        }
        if not limited:
            while page := list(islice(names, batch)):
                yield page
            return
        page, counts = [], dict.fromkeys(limited, 0)
        for name in names:
            found = None if isinstance(name, InvalidName) else self.registry.find(name[1])
            page.append(name)
            full = len(page) >= batch
            if found is not None and (owner := found[0].name) in limited:
                counts[owner] += 1
                full = full or counts[owner] >= limited[owner]
            if full:
                yield page
                page, counts = [], dict.fromkeys(limited, 0)
        if page:
            yield page

    def _look(self, crew: Crew, total: int | None) -> Generator[Effect | Step[WarmReport], Any, bool]:
        """Yield how the work stands, and tell whether it is over."""
        crew.moved = self.landed()
        if crew.error is not None:
            raise crew.error
        tally = self.work.tally()
        over = tally.closed and not tally.left
        expected = tally.dealt if over else total
        report = replace(tally.report, asked=tally.dealt)
        failed = report.failed + tally.failing
        yield Step(tally.dealt - tally.left, expected, failed, {}, report, over)
        return over

    def _lane(self, crew: Crew) -> Program[None]:
        """Do one unit after the other."""
        try:
            while not crew.over:
                dealt = crew.dealt
                unit = self.work.take()
                if unit is None:
                    return
                if isinstance(unit, Unit):
                    yield from self._do(unit, crew)
                else:
                    yield Wait(dealt, min(unit, LOOK_S))
        except OverError:
            return
        except BaseException as error:
            crew.error = error
        finally:
            crew.ended.set()
            crew.moved.set()

    def _do(self, unit: Unit, crew: Crew) -> Program[None]:
        try:
            outcome = yield from self.units.warm(unit, crew)
        except BaseException:
            self.work.put_back(unit)
            raise
        self.work.done(unit, outcome)
        if outcome.failing and (trouble := self.work.tally().trouble):
            self.work.stop(trouble, crew.trouble)
        crew.moved.set()


def _sorted(page: Page) -> tuple[list[Name], Outcome]:
    """The names of a page; what is none has failed, and does not hold the rest."""
    bad = Outcome()
    if InvalidName not in set(map(type, page)):
        return cast("list[Name]", page), bad
    usable: list[Name] = []
    for name in page:
        if isinstance(name, InvalidName):
            bad.fail(str(name.value), str(name))
        else:
            usable.append(name)
    return usable, bad


def _names(keys: Keys, tenant_id: str | None, batch: int) -> tuple[Iterator[Name | InvalidName], int | None]:
    """The keys with their tenants, in order, and how many, if that is known."""
    if isinstance(keys, str):
        raise InvalidName("keys", keys, "give a list of keys, or a dict of tenant to keys, not one str")
    if isinstance(keys, Mapping):
        if tenant_id is not None:
            raise InvalidName("tenant_id", tenant_id, "the keys come by tenant already; leave it out")
        groups = cast("Mapping[str, Iterable[str]]", keys)
        total = sum(len(group) for group in groups.values() if isinstance(group, Sized))
        sized = all(isinstance(group, Sized) for group in groups.values())
        names = (name for tenant, group in groups.items() for name in _named(group, tenant, batch))
        for tenant in groups:
            tenant_field(tenant)
        return names, total if sized else None
    tenant_field(tenant_id)
    return _named(keys, tenant_id, batch), len(keys) if isinstance(keys, Sized) else None


def _named(keys: Iterable[Any], tenant_id: str | None, batch: int) -> Iterator[Name | InvalidName]:
    """The names of a stream, which is read a batch at a time: that costs a fraction of a look at each key."""
    stream = iter(keys)
    while page := list(islice(stream, batch)):
        if all_plain(page):
            yield from zip(repeat(tenant_id), page, strict=False)
        else:
            yield from (_name(key, tenant_id) for key in page)


def _name(key: str | tuple[str | None, str], tenant_id: str | None) -> Name | InvalidName:
    if not isinstance(key, tuple):
        return tenant_id, check_key(key)
    if len(key) != 2:
        return InvalidName("key", key, "give (tenant, key)")
    tenant, name = key
    try:
        tenant_field(tenant)
        return tenant, check_key(name)
    except InvalidName as refused:
        return refused
