"""How often a property is tried: some examples each time, many in the slow tier; a failure prints how to repeat it.

A test defines its property inside itself, so that all examples share its fixtures:

    @thorough_too
    def test_a_rule(cache: Cache, thorough: bool) -> None:
        @tried(thorough)
        @given(st.text())
        def rule(text: str) -> None: ...

        rule()
"""

import pytest
from hypothesis import HealthCheck, settings

MORE = 30
"""How many times as many examples the slow tier tries."""

thorough_too = pytest.mark.parametrize(
    "thorough",
    [False, pytest.param(True, marks=[pytest.mark.slow, pytest.mark.timeout(600)])],
    ids=["quick", "thorough"],
)


def tried(thorough: bool, quick: int = 100) -> settings:
    """The settings of a property, for use as a decorator. Machines are shared, so no example has a deadline."""
    return settings(
        max_examples=quick * MORE if thorough else quick,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
