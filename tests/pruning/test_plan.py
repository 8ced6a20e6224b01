from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.errors import PruningError
from primesvt_deploy.pruning.plan import Plan, kept_width


def group(width: int, heads: int = 1) -> Group:
    return Group(
        name="g", root="g.conv", width=width, heads=heads, outputs=(), norms=(), inputs=(), size=1
    )


def test_plans_with_the_same_channels_are_the_same_plan() -> None:
    one = Plan().replacing("a", [3, 1]).replacing("b", [0])
    two = Plan().replacing("b", [0]).replacing("a", [1, 3])
    assert one == two
    assert one.digest == two.digest
    assert one.digest != Plan().replacing("a", [1, 3]).digest


def test_a_plan_survives_json() -> None:
    plan = Plan().replacing("a", [3, 1]).replacing("b", [0])
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


@pytest.mark.parametrize(
    "content",
    [
        None, [], {}, {"kept": None}, {"kept": []}, {"kept": {"a": 3}}, {"kept": {"a": ["1"]}},
        {"kept": {"a": [-1]}}, {"kept": {"a": [True]}}, {"kept": {"a": [10**400]}},
        {"kept": {1: [1]}},
    ],
)  # fmt: skip
def test_what_is_no_plan_is_refused(content: Any) -> None:
    with pytest.raises(PruningError, match=r"no content of a plan\.json") as caught:
        Plan.from_dict(content)
    assert "\n" not in str(caught.value)


def test_channels_in_any_order_are_the_same_plan_and_checked_alike() -> None:
    assert Plan.from_dict({"kept": {"g": [2, 0]}}) == Plan().replacing("g", [0, 2])
    for indices in ([0, 9, 1], [1, 1], []):
        with pytest.raises(PruningError):
            Plan.from_dict({"kept": {"g": indices}}).check([group(8)])


def test_replacing_a_group_leaves_the_others() -> None:
    plan = Plan().replacing("a", [1, 2]).replacing("b", [0]).replacing("a", [2])
    assert plan["a"] == (2,)
    assert plan["b"] == (0,)
    assert plan["c"] is None


@pytest.mark.parametrize(
    ("width", "heads", "rate", "multiple", "expected"),
    [
        (100, 1, 0.3, 1, 70),
        (100, 1, 0.999, 1, 1),
        (100, 1, 0.3, 16, 80),
        (192, 6, 0.5, 1, 96),
        (192, 6, 0.5, 12, 144),
        (192, 6, 0.99, 1, 6),
        (24, 1, 0.9, 32, 24),
    ],
)
def test_kept_width(width: int, heads: int, rate: float, multiple: int, expected: int) -> None:
    assert kept_width(group(width, heads), rate, multiple=multiple) == expected


@given(
    head_width=st.integers(1, 200),
    heads=st.integers(1, 8),
    rate=st.floats(0.001, 0.999),
    multiple=st.integers(1, 32),
)
def test_kept_width_is_legal(head_width: int, heads: int, rate: float, multiple: int) -> None:
    kept = kept_width(group(head_width * heads, heads), rate, multiple=multiple)
    assert 0 < kept <= head_width * heads
    assert kept % heads == 0
    per_head = kept // heads
    assert per_head == head_width or per_head % multiple == 0
    # Never more leaves than was asked for.
    assert per_head >= head_width - rate * head_width - 1e-6
