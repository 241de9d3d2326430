"""Warm plans for the workers of these tests, over the keys of the slow loader."""

from collections.abc import Iterator

from stoker.tasks import warm_plan


@warm_plan("often", every="1s", tenants=["acme"])
def often() -> Iterator[str]:
    yield from (f"slow:{number}" for number in range(3))


@warm_plan("quiet", every="1s")
def quiet() -> Iterator[str]:
    yield "slow:100"


@warm_plan("first", on_startup=True)
def first() -> Iterator[tuple[str | None, str]]:
    yield "acme", "slow:200"
    yield None, "slow:201"


@warm_plan("long")
def long() -> Iterator[str]:
    yield from (f"slow:{number}" for number in range(1000, 1400))
