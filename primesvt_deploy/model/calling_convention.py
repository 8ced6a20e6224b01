"""Find out how a user's module is called: with images or sequences, in which order of axes."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from primesvt_deploy.errors import ModelError, type_and_message
from primesvt_deploy.families.adopted import AdoptedConfig, AdoptedNetwork

__all__ = ["find_calling_convention"]


def find_calling_convention(
    net: nn.Module, image_size: int, timesteps: int | None, frames: bool | None, factory: str
) -> AdoptedConfig:
    """Configuration under which `net` runs, found by trying.

    Args:
        net: the user's module; not changed.
        image_size: height and width of the square input, pixels.
        timesteps: T; None: the module's attribute `T`.
        frames: whether the input is event frames; None: if the first convolution takes 2 channels.
        factory: `module:function` that makes the module, or "".

    Raises:
        ModelError: T is not known, there is no 2-d convolution, or every way of calling fails.
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
    failures: list[str] = []
    for config in _candidates(plain):
        outcome = _tried(net, config)
        if isinstance(outcome, AdoptedConfig):
            return outcome
        failures.append(outcome)
    raise ModelError(f"{type(net).__name__} could not be run: {'; '.join(dict.fromkeys(failures))}")


def _candidates(plain: AdoptedConfig) -> list[AdoptedConfig]:
    return [
        *([] if plain.frames else [plain]),
        replace(plain, sequence_input=True),
        replace(plain, sequence_input=True, batch_first=True),
    ]


def _tried(net: nn.Module, config: AdoptedConfig) -> AdoptedConfig | str:
    """`config` completed by the shape of the output, or the reason why the module does not run."""
    # Another number of samples than of timesteps, so that the axes cannot be confused.
    samples = 2 if config.timesteps != 2 else 3
    network = AdoptedNetwork(config, net)
    try:
        with torch.no_grad():
            found = network(config.example(samples))
    except Exception as error:  # the user's code may raise anything
        return f"on an input of {list(config.example(samples).shape)}: {type_and_message(error)}"
    if not isinstance(found, torch.Tensor):
        return f"it returns a {type(found).__name__}, expected logits [N, K] or [T, N, K]"
    steps = (config.timesteps, samples)
    if found.ndim == 3 and tuple(found.shape[:2]) == steps:
        return replace(config, sequence_output=True, num_classes=found.shape[2])
    if found.ndim == 2 and len(found) == samples:
        return replace(config, num_classes=found.shape[1])
    return (
        f"it returns {list(found.shape)} for {samples} samples and {config.timesteps} timesteps, "
        "expected logits [N, K] or [T, N, K]"
    )
