"""Expected quantities keep their order under whatever is done with them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primesvt_deploy.measure.span import Span

VALUES = st.floats(0.0, 1e6)
SPANS = st.lists(VALUES, min_size=3, max_size=3).map(
    lambda values: Span(sorted(values)[1], min(values), max(values))
)


@given(SPANS, SPANS, VALUES)
def test_low_stays_below_likely_and_likely_below_high(a: Span, b: Span, number: float) -> None:
    for found in (a + b, a * b, a * number, a.less(number), a.at_least(b), Span.total([a, b, a])):
        assert 0.0 <= found.low <= found.likely <= found.high


def test_a_known_value_has_no_range() -> None:
    three = Span.exactly(3.0)
    assert three.is_exact and (three * 2.0 + three).likely == 9.0
    assert not Span(2.0, 1.0, 3.0).is_exact
    assert Span(2.0, 1.0, 3.0).less(1.5) == Span(0.5, 0.0, 1.5)
    assert Span(5.0, 1.0, 9.0).beyond(Span(2.0, 2.0, 2.0)) == Span(3.0, 0.0, 7.0)
    assert Span.total([]) == Span.exactly(0.0)
    assert Span(2.04, 1.0, 3.0).to_dict(1) == {"likely": pytest.approx(2.0), "low": 1.0, "high": 3}
