from __future__ import annotations

import numpy as np
import pytest
import torch
from other_device import OTHER, other_device
from torch import nn

from primesvt_deploy.analysis.equal_heads import keep_most_important
from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.analysis.importance import l2_importance
from primesvt_deploy.analysis.input_statistics import InputMoments, Moments
from primesvt_deploy.analysis.reconstruction import (
    damped,
    factored,
    reconstruction_importance,
)


class Pair(nn.Module):
    """A producer of channels and one that reads them."""

    def __init__(self, width: int, kernel: int = 1) -> None:
        super().__init__()
        self.producer = nn.Conv2d(3, width, 1)
        self.consumer = nn.Conv2d(width, 6, kernel, padding=kernel // 2)


def group_of(width: int, heads: int = 1, consumers: tuple[str, ...] = ("consumer",)) -> Group:
    return Group(
        name="g", root="producer", width=width, heads=heads, outputs=("producer",), norms=(),
        inputs=consumers, size=1,
    )  # fmt: skip


def moments_of(rows: np.ndarray) -> Moments:
    x = torch.from_numpy(rows)
    mean = x.mean(dim=0)
    covariance = (x - mean).T @ (x - mean) / len(x)
    seen = InputMoments(mean, covariance, x.amin(dim=0), x.amax(dim=0), padded=False)
    return Moments({"consumer": seen}, {})


def spikes(width: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (generator.random((4000, width)) < generator.uniform(0.05, 0.5, width)).astype(float)


def test_a_channel_that_another_one_repeats_leaves_first() -> None:
    torch.manual_seed(0)
    module = Pair(8)
    rows = spikes(8)
    rows[:, 5] = rows[:, 2]
    importance = reconstruction_importance(module, group_of(8), moments_of(rows))
    assert int(importance.argmin()) in (2, 5)
    assert sorted(importance.tolist()) == list(range(8)), "one leaves at each step"


def test_a_channel_that_never_varies_leaves_first_whatever_its_weights() -> None:
    torch.manual_seed(0)
    module = Pair(8)
    with torch.no_grad():
        module.consumer.weight[:, 4] *= 2.0
        module.producer.weight[4] *= 100.0
    rows = spikes(8)
    rows[:, 4] = 1.0
    group = group_of(8)
    importance = reconstruction_importance(module, group, moments_of(rows))
    assert int(importance.argmin()) == 4
    assert int(l2_importance(module, group).argmax()) == 4, "the norm would keep it longest"


@pytest.mark.parametrize("kernel", [1, 3])
def test_the_first_to_leave_is_what_least_squares_misses_least(kernel: int) -> None:
    torch.manual_seed(1)
    width = 6
    module = Pair(width, kernel)
    columns = width * kernel**2
    rows = spikes(columns, seed=1)
    moments = moments_of(rows)
    covariance = damped(moments.inputs["consumer"].covariance).numpy()
    weights = module.consumer.weight.detach().permute(0, 2, 3, 1).flatten(1).double().numpy()
    errors = []
    for channel in range(width):
        gone = np.arange(kernel**2) * width + channel
        kept = np.setdiff1d(np.arange(columns), gone)
        share = covariance[np.ix_(gone, kept)] @ np.linalg.inv(covariance[np.ix_(kept, kept)])
        left = covariance[np.ix_(gone, gone)] - share @ covariance[np.ix_(kept, gone)]
        errors.append(np.trace(weights[:, gone] @ left @ weights[:, gone].T))
    importance = reconstruction_importance(module, group_of(width), moments)
    assert int(importance.argmin()) == int(np.argmin(errors))


def test_heads_lose_a_channel_each_at_every_step() -> None:
    torch.manual_seed(2)
    module, group = Pair(12), group_of(12, heads=3)
    importance = reconstruction_importance(module, group, moments_of(spikes(12)))
    for head in range(3):
        assert sorted(importance[4 * head : 4 * head + 4].tolist()) == [0, 1, 2, 3]
    kept = keep_most_important(importance, group, 6)
    assert [sum(i // 4 == h for i in kept) for h in range(3)] == [2, 2, 2]


def test_without_a_reader_activity_weighs_the_norm() -> None:
    torch.manual_seed(3)
    module = Pair(5)
    rates = torch.tensor([0.5, 0.0, 0.5, 0.5, 0.5], dtype=torch.float64)
    moments = Moments({}, {"producer": rates})
    importance = reconstruction_importance(module, group_of(5, consumers=()), moments)
    assert importance[1] == 0.0
    torch.testing.assert_close(importance, l2_importance(module, group_of(5)) * rates)


def test_a_covariance_that_rounding_made_indefinite_is_damped_more() -> None:
    covariance = torch.diag(torch.tensor([1.0, 1.0, -0.05], dtype=torch.float64))
    factor = factored(covariance)
    assert bool(torch.isfinite(factor).all())
    assert float((factor @ factor.T - covariance).abs().max()) < 0.5


@pytest.mark.parametrize(("kernel", "heads"), [(1, 1), (1, 4), (3, 2)])
def test_importance_is_the_same_with_moments_on_another_device(kernel: int, heads: int) -> None:
    torch.manual_seed(0)
    module, group = Pair(8, kernel), group_of(8, heads)
    rows = np.random.default_rng(0).integers(0, 2, (200, 8 * kernel**2)).astype(np.float64)
    moments = moments_of(rows)
    expected = reconstruction_importance(module, group, moments)
    with other_device():
        found = reconstruction_importance(module, group, moments.to(OTHER))
    assert found.device == torch.device("cpu") and torch.equal(found, expected)
    assert len(expected.unique()) == 8 // heads


def test_importance_by_rates_of_another_device() -> None:
    module, group = Pair(8), group_of(8, consumers=())
    moments = Moments({}, {"producer": torch.linspace(0.1, 0.8, 8, dtype=torch.float64)})
    expected = reconstruction_importance(module, group, moments)
    with other_device():
        assert torch.equal(reconstruction_importance(module, group, moments.to(OTHER)), expected)
