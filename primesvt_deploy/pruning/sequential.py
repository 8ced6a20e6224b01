"""Refit every layer, in the order they run, to what it really receives in the pruned network.

`pruning.refit` goes by what a layer reads in the dense model. Behind other pruned layers it reads
something else, and errors add up along the network. Here, once a plan is decided, each layer in
turn is fitted so that what it makes of its inputs in the pruned network, as that is by then, is
what the dense layer makes of its own: `W' = W + (Q - W C)(C + damping)^-1` for the covariance C of
the former inputs and their cross-covariance Q with the latter outputs. Norms are matched again as
they are passed (`pruning.norms`). Source: asymmetric reconstruction (Zhang et al., "Accelerating
Very Deep Convolutional Networks", TPAMI 2016, section 3.3), for pruning as in He et al. (ICCV
2017, section 3.2); the damping draws towards the weights as they were.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, cast

import torch
from torch import nn

from primesvt_deploy.analysis.reconstruction import factored
from primesvt_deploy.families.network import Segment, SpikingNetwork
from primesvt_deploy.families.units import ConvBN
from primesvt_deploy.lowering.matrices import (
    Weighted,
    input_rows,
    is_dense,
    set_weights,
    weight_matrix,
)
from primesvt_deploy.pruning.norms import matched_norms, recorded_norms

__all__ = ["refit_in_order"]

_DAMPING = 0.1
"""Ten times that of `refit`: what is fitted here are errors, of few images."""
_ROWS = 1 << 16
_ROWS_AT_ONCE = 4096
_ROWS_A_COLUMN = 4
"""Fewer rows tell more of themselves than of a layer."""
_NEVER_VARIES = 1e-10


class _ReadError(BaseException):
    """Ends a run where a layer has been reached; no user's `except Exception` stops it."""

    def __init__(self, inputs: torch.Tensor) -> None:
        self.inputs = inputs


@torch.no_grad()
def refit_in_order(
    network: SpikingNetwork, dense: SpikingNetwork, samples: torch.Tensor
) -> tuple[str, ...]:
    """Refit the layers of `network` and match its norms, in place.

    Layers that run more than once or share their weights, that are not dense
    (`lowering.matrices.is_dense`), that have neither a bias nor a norm of their own, or that read
    too few rows for their width keep their weights, and so do those that read the same in both
    networks. Outputs that left stay silent.

    Args:
        network: the dense network with the channels that leave silenced; neurons unrolled, norms
            standing.
        dense: the same without that.
        samples: calibration samples, as the network takes them; all are run at once.

    Returns:
        Names of the layers whose weights changed.
    """
    with recorded_norms(dense) as received, _called(dense) as calls:
        dense(samples)
    once = {name for name in calls if calls.count(name) == 1} - _sharing(dense)
    state, dense_state = network.fold(samples), dense.fold(samples)
    changed = []
    for segment, dense_segment in zip(network.segments(), dense.segments(), strict=True):
        with _called(dense) as names:
            dense_segment.run(dense_state)
        for name in names:
            if name not in once or not _has_offset(network, name, received):
                continue
            layer = cast(Weighted, network.get_submodule(name))
            wanted = _read_by(dense, name, dense_segment, dense_state)
            with matched_norms(network, received):
                found = _read_by(network, name, segment, state)
            if _refit(layer, cast(Weighted, dense.get_submodule(name)), found, wanted):
                changed.append(name)
        with matched_norms(network, received):
            state = segment.run(state)
        dense_state = dense_segment.run(dense_state)
    return tuple(changed)


@contextmanager
def _called(network: nn.Module) -> Iterator[list[str]]:
    """Collects the names of dense layers as they are called."""
    calls: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda _m, _a, name=name: calls.append(name))
        for name, module in network.named_modules()
        if is_dense(module)
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _sharing(network: nn.Module) -> set[str]:
    """Dense layers whose weights are another's as well."""
    layers = {n: m for n, m in network.named_modules() if is_dense(m)}
    owners = Counter(id(layer.weight) for layer in layers.values())
    return {name for name, layer in layers.items() if owners[id(layer.weight)] > 1}


def _has_offset(network: nn.Module, name: str, received: Collection[str]) -> bool:
    """Whether something takes up the mean of what a layer's new weights give."""
    parent = name.rpartition(".")[0]
    unit, layer = network.get_submodule(parent), network.get_submodule(name)
    normed = isinstance(unit, ConvBN) and unit.conv is layer and f"{parent}.bn" in received
    return normed or layer.bias is not None


def _read_by(network: nn.Module, name: str, segment: Segment, state: torch.Tensor) -> torch.Tensor:
    """What a layer reads when the segment it is in runs, up to there."""

    def read(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> NoReturn:
        raise _ReadError((*args, *named.values())[0])

    handle = network.get_submodule(name).register_forward_pre_hook(read, with_kwargs=True)
    try:
        segment.run(state)
    except _ReadError as reached:
        return reached.inputs
    finally:
        handle.remove()
    raise AssertionError(f"{name} does not run")


def _refit(layer: Weighted, dense: Weighted, found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Set a layer's weights, and its bias where it has one; whether there was cause to."""
    if torch.equal(found, wanted):
        return False
    matrix = weight_matrix(dense)
    outs, width = matrix.shape
    rows = 0
    mean_x, mean_y, covariance, cross = (
        torch.zeros(shape, dtype=torch.float64)
        for shape in ((width,), (outs,), (width, width), (width, outs))
    )
    # From about their means, as large means would drown small variances in rounding.
    origin, target = (next(_parts(m, x)).mean(dim=0) for m, x in ((layer, found), (dense, wanted)))
    for read, dense_read in zip(_parts(layer, found), _parts(dense, wanted), strict=True):
        inputs, outputs = read - origin, (dense_read - target) @ matrix.T
        rows += len(inputs)
        mean_x += inputs.sum(dim=0)
        mean_y += outputs.sum(dim=0)
        covariance += inputs.T @ inputs
        cross += inputs.T @ outputs
    mean_x, mean_y = mean_x / rows, mean_y / rows
    covariance = covariance / rows - torch.outer(mean_x, mean_x)
    cross = cross / rows - torch.outer(mean_x, mean_y)
    before = weight_matrix(layer).double()
    varies = covariance.diagonal() > _NEVER_VARIES
    if not bool(varies.any()) or rows < _ROWS_A_COLUMN * int(varies.sum()):
        return False
    inner = covariance[varies][:, varies]
    factor = factored(inner, _DAMPING)
    missing = cross[varies] - inner @ before[:, varies].T
    stays = before.any(dim=1)
    after = before.clone()
    after[:, varies] += torch.cholesky_solve(missing, factor).T
    after[~stays] = 0.0
    set_weights(layer, after.to(layer.weight.dtype))
    if layer.bias is not None:
        mean_y, mean_x = mean_y + matrix.double() @ target.double(), mean_x + origin
        offset = mean_y - after @ mean_x
        if dense.bias is not None:
            offset = offset + dense.bias
        layer.bias[stays] = offset.to(layer.bias.dtype)[stays]
    return True


def _parts(layer: Weighted, x: torch.Tensor) -> Iterator[torch.Tensor]:
    """Rows that a layer reads, part by part: whole samples, drawn alike for equal shapes."""
    of_maps = isinstance(layer, nn.Conv2d)
    samples = x.flatten(0, -4) if of_maps else x.flatten(0, -2)
    windows = samples[0, 0].numel() if of_maps else 1
    drawn = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))
    drawn = drawn[: max(1, _ROWS // windows)]
    # No more at once than `input_rows` takes whole.
    for part in drawn.split(max(1, _ROWS_AT_ONCE // windows)):
        yield input_rows(layer, samples[part])
