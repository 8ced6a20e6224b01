"""Refit the classifier to the features of the pruned network, by least squares.

The classifier W of the dense model receives other features in a pruned network. With its inputs x
there and the outputs y of the dense one, over calibration samples:
`W' = W + (Q - W C)(C + damping)^-1` for the covariance C of x and the cross-covariance Q of y and
x, and a bias that keeps the mean of y. It is a ridge regression towards W: distillation of the
logits (Hinton et al., 2015) into the last layer, in closed form. Labels are not used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn

from primesvt_deploy.analysis.reconstruction import factored
from primesvt_deploy.families.network import SpikingNetwork
from primesvt_deploy.model.layer_matrix import Weighted, set_weights, weight_matrix

__all__ = ["classifier_inputs", "classifier_outputs", "refit_classifiers"]

_DAMPING = 0.1
_NEVER_VARIES = 1e-10


@torch.no_grad()
def classifier_inputs(
    network: SpikingNetwork, batches: Iterable[torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Inputs of each classifier of `network` over the samples, `[rows, C]`, by its name.

    Classifiers that are no linear layers are left out.
    """
    with _read(network) as rows:
        for batch in batches:
            network(batch)
    return {name: torch.cat(parts) for name, parts in rows.items() if parts}


def classifier_outputs(
    network: SpikingNetwork, inputs: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Outputs of the classifiers of `network` for such inputs, `[rows, K]`, by name."""
    with torch.no_grad():
        return {name: network.get_submodule(name)(rows) for name, rows in inputs.items()}


@torch.no_grad()
def refit_classifiers(
    module: nn.Module,
    inputs: Mapping[str, torch.Tensor],
    outputs: Mapping[str, torch.Tensor],
) -> None:
    """Set the classifiers of `module` so that they make `outputs` of `inputs`, in place.

    Args:
        module: whose classifiers are set.
        inputs: of its own classifiers (see `classifier_inputs`).
        outputs: of the dense model's, row for row.
    """
    for name, x in inputs.items():
        layer = cast(Weighted, module.get_submodule(name))
        _refit(layer, x.double(), outputs[name].double())


def _refit(layer: Weighted, x: torch.Tensor, y: torch.Tensor) -> None:
    before = weight_matrix(layer).double()
    # Without a bias nothing takes up a mean.
    centred = layer.bias is not None
    mean_x, mean_y = x.mean(dim=0), y.mean(dim=0)
    if centred:
        x, y = x - mean_x, y - mean_y
    covariance, cross = x.T @ x / len(x), x.T @ y / len(x)
    varies = covariance.diagonal() > _NEVER_VARIES
    after = before.clone()
    if bool(varies.any()):
        inner = covariance[varies][:, varies]
        missing = cross[varies] - inner @ before[:, varies].T
        after[:, varies] += torch.cholesky_solve(missing, factored(inner, _DAMPING)).T
    set_weights(layer, after.to(layer.weight.dtype))
    if layer.bias is not None:
        layer.bias.copy_(mean_y - after @ mean_x)


@contextmanager
def _read(network: SpikingNetwork) -> Iterator[dict[str, list[torch.Tensor]]]:
    """Collects the inputs of the classifiers while the network runs."""
    rows: dict[str, list[torch.Tensor]] = {}

    def keep(name: str, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        rows.setdefault(name, []).append((*args, *named.values())[0].flatten(0, -2))

    handles = [
        layer.register_forward_pre_hook(
            lambda _, args, named, name=name: keep(name, args, named), with_kwargs=True
        )
        for name in network.classifiers
        if isinstance(layer := network.get_submodule(name), nn.Linear)
    ]
    try:
        yield rows
    finally:
        for handle in handles:
            handle.remove()
