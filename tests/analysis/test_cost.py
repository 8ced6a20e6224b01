from __future__ import annotations

import random

from small_models import with_config

from primesvt_deploy.analysis.cost import ShippedSize, measure_cost
from primesvt_deploy.analysis.groups import find_groups
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pruning.cut import cut
from primesvt_deploy.pruning.plan import Plan


def test_parameters_are_those_of_the_module(tiny: SViT) -> None:
    cost = measure_cost(tiny)
    assert cost.parameters == sum(p.numel() for p in tiny.module.parameters())
    assert cost.parameter_bytes == 4 * cost.parameters


def test_a_shipped_channel_has_one_bias_in_place_of_a_norm(tiny: SViT) -> None:
    channels = sum(
        p.numel() for name, p in tiny.module.named_parameters() if name.endswith("bn.weight")
    )
    cost = measure_cost(tiny)
    assert cost.shipped_parameters == cost.parameters - channels


def test_macs_count_the_static_first_convolution_once(tiny: SViT) -> None:
    once = 3 * 2 * 9 * 16 * 16
    one, four = (measure_cost(with_config(tiny, timesteps=t)).macs for t in (1, 4))
    head = 16 * 5
    assert four - one == 3 * (one - once - head)


def test_predicted_size_equals_the_cut_models(tiny: SViT) -> None:
    groups = find_groups(tiny.module, tiny.config.input_shape)
    sizes = ShippedSize(tiny, groups)
    generator = random.Random(0)
    for _ in range(5):
        plan = Plan()
        for group in groups:
            head_width = group.width // group.heads
            keep = generator.randint(1, head_width)
            plan = plan.replacing(
                group.name, [h * head_width + i for h in range(group.heads) for i in range(keep)]
            )
        cost = measure_cost(tiny.with_module(cut(tiny.module, groups, plan)))
        assert sizes.parameters(plan.widths(groups)) == cost.shipped_parameters
