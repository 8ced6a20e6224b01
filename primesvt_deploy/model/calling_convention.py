"""Find out how a user's module is called, in which order of axes, and where its logits are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from primesvt_deploy.errors import ModelError, type_and_message
from primesvt_deploy.families.adopted import AdoptedConfig, AdoptedNetwork
from primesvt_deploy.lowering.code_line import line_of_error
from primesvt_deploy.model.find_logits import find_logits

__all__ = ["find_calling_convention"]


@dataclass(frozen=True)
class _Failure:
    """One way of calling that does not work.

    Args:
        reason: for the message.
        reached: layers that ran before it failed; infinite where all did.
    """

    reason: str
    reached: float


def find_calling_convention(
    net: nn.Module,
    image_size: int,
    timesteps: int | None,
    frames: bool | None,
    factory: str,
    classes: int | None = None,
) -> AdoptedConfig:
    """Configuration under which `net` runs, found by trying.

    Args:
        net: the user's module; not changed.
        image_size: height and width of the square input, pixels.
        timesteps: T; None: the module's attribute `T`.
        frames: whether the input is event frames; None: if the first convolution takes 2 channels.
        factory: `module:function` that makes the module, or "".
        classes: number of labels that the user gives; None: none are given.

    Raises:
        ModelError: T is not known, there is no 2-d convolution, or every way of calling fails, with
            the reason of the one that came furthest.
    """
    steps = getattr(net, "T", None) if timesteps is None else timesteps
    if type(steps) is not int:
        raise ModelError(
            f"{type(net).__name__} has no attribute T of its timesteps: pass --timesteps"
        )
    first = next((m for m in net.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None:
        raise ModelError(f"{type(net).__name__} has no 2-d convolution: expected a vision model")
    plain = AdoptedConfig(
        timesteps=steps,
        image_size=image_size,
        in_channels=first.in_channels,
        num_classes=1,
        frames=first.in_channels == 2 if frames is None else frames,
        sequence_input=False,
        sequence_output=False,
        factory=factory,
    )
    failures: list[_Failure] = []
    for config in _candidates(plain):
        outcome = _tried(net, config, classes)
        if isinstance(outcome, AdoptedConfig):
            return outcome
        failures.append(outcome)
    furthest = max(failures, key=lambda failure: failure.reached)
    raise ModelError(f"{type(net).__name__} {furthest.reason}")


def _candidates(plain: AdoptedConfig) -> list[AdoptedConfig]:
    return [
        *([] if plain.frames else [plain]),
        replace(plain, sequence_input=True),
        replace(plain, sequence_input=True, batch_first=True),
    ]


def _tried(net: nn.Module, config: AdoptedConfig, classes: int | None) -> AdoptedConfig | _Failure:
    """`config` completed by the shape of the output, or the reason why the module does not run."""
    # Another number of samples than of timesteps, so that the axes cannot be confused.
    samples = 2 if config.timesteps != 2 else 3
    network = AdoptedNetwork(config, net)
    reached = [0]

    def count(*_: Any) -> None:
        reached[0] += 1

    for module in network.modules():
        module.register_forward_hook(count)
    try:
        with torch.no_grad():
            found = network.outputs(config.example(samples))
    except Exception as error:  # the user's code may raise anything
        return _Failure(_of_error(error, config, samples), reached[0])
    try:
        logits = find_logits(found, net, config.timesteps, samples, classes)
    except ModelError as error:
        return _Failure(str(error), float("inf"))
    return replace(
        config,
        output=logits.path,
        sequence_output=logits.over_time,
        num_classes=logits.classes,
    )


def _of_error(error: Exception, config: AdoptedConfig, samples: int) -> str:
    shape = list(config.example(samples).shape)
    if config.sequence_input:
        t, n = config.timesteps, samples
        shape = [*((n, t) if config.batch_first else (t, n)), *config.input_shape]
    place = line_of_error(error)
    at = f" ({place})" if place else ""
    return f"could not be run: on an input of {shape}: {type_and_message(error)}{at}"
