"""Models as users write them, of SpikingJelly's neurons and plain layers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from small_models import enliven
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from spikingjelly.activation_based.model.spikformer import Spikformer
from torch import nn

__all__ = [
    "Attending",
    "Convolutional",
    "Flattened",
    "Fused",
    "Operating",
    "attending",
    "hooked",
    "neurons_of_all_kinds",
]


def neurons_of_all_kinds() -> dict[str, nn.Module]:
    """One neuron of each supported kind and reset, multi-step."""
    counts = surrogate.MultiLevelSpikeCount(3)
    return {
        "LIF": neuron.LIFNode(tau=1.7, step_mode="m"),
        "LIF, soft": neuron.LIFNode(v_reset=None, v_threshold=0.7, step_mode="m"),
        "LIF, no decay": neuron.LIFNode(decay_input=False, v_reset=-0.1, step_mode="m"),
        "IF": neuron.IFNode(v_threshold=0.8, step_mode="m"),
        "IF, soft": neuron.IFNode(v_reset=None, step_mode="m"),
        "PLIF": neuron.ParametricLIFNode(init_tau=3.3, step_mode="m"),
        "PLIF, no decay": neuron.ParametricLIFNode(
            init_tau=1.4, decay_input=False, v_reset=None, step_mode="m"
        ),
        "I-LIF": neuron.ILIFNode(tau=1.5, surrogate_function=counts, step_mode="m"),
    }


class Convolutional(nn.Module):
    """Takes and returns sequences, through SpikingJelly's step-mode layers."""

    def __init__(self, node: nn.Module | None = None, channels: int = 3) -> None:
        super().__init__()
        self.net = nn.Sequential(
            layer.Conv2d(channels, 8, 3, padding=1, bias=False),
            layer.BatchNorm2d(8),
            node or neuron.IFNode(),
            layer.Conv2d(8, 12, 3, padding=1, groups=2),
            layer.BatchNorm2d(12),
            neuron.LIFNode(),
            layer.AdaptiveAvgPool2d(1),
            layer.Flatten(),
            layer.Linear(12, 5),
        )
        functional.set_step_mode(self, "m")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.net(x)
        return logits


class Flattened(nn.Module):
    """Repeats the image itself; its classifier reads every pixel of every channel."""

    T = 2

    def __init__(self) -> None:
        super().__init__()
        self.conv = layer.SeqToANNContainer(nn.Conv2d(3, 6, 3, stride=2, padding=1))
        self.lif = neuron.LIFNode(step_mode="m")
        self.head = nn.Linear(6 * 8 * 8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spikes = self.lif(self.conv(x.unsqueeze(0).repeat(self.T, 1, 1, 1, 1)))
        logits: torch.Tensor = self.head(spikes.flatten(2)).mean(0)
        return logits


class Operating(nn.Module):
    """Applies any operation to its spikes, `[T, N, 6, 8, 8]`."""

    T = 2

    def __init__(self, operation: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.lif = neuron.LIFNode(step_mode="m")
        self.head = nn.Linear(6, 5)
        self.operation = operation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spikes = self.lif(self.conv(x).unsqueeze(0).repeat(self.T, 1, 1, 1, 1))
        logits: torch.Tensor = self.head(self.operation(spikes).mean((0, 3, 4)))
        return logits


class Attending(nn.Module):
    """A small SViT whose head count and width are written into its code."""

    T = 3

    def __init__(self) -> None:
        super().__init__()
        dim, lif = 16, self._lif
        self.stem = layer.SeqToANNContainer(
            nn.Conv2d(3, dim, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(dim)
        )
        self.stem_lif = lif()
        for name in ("q", "k", "v", "proj"):
            unit = layer.SeqToANNContainer(nn.Conv1d(dim, dim, 1), nn.BatchNorm1d(dim))
            setattr(self, name, unit)
            setattr(self, f"{name}_lif", lif())
        self.attn_lif = lif(v_threshold=0.5)
        self.fc1 = layer.SeqToANNContainer(nn.Conv1d(dim, 32, 1), nn.BatchNorm1d(32))
        self.fc1_lif = lif()
        self.fc2 = layer.SeqToANNContainer(nn.Conv1d(32, dim, 1), nn.BatchNorm1d(dim))
        self.fc2_lif = lif()
        self.head = nn.Linear(dim, 5)

    @staticmethod
    def _lif(**options: Any) -> nn.Module:
        return neuron.LIFNode(step_mode="m", detach_reset=True, **options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.unsqueeze(0).repeat(self.T, 1, 1, 1, 1)
        x = self.stem_lif(self.stem(x)).flatten(3)
        steps, n, _, tokens = x.shape
        q, k, v = (
            getattr(self, f"{name}_lif")(getattr(self, name)(x)).reshape(steps, n, 2, 8, tokens)
            for name in "qkv"
        )
        attended = (v @ k.transpose(-1, -2) @ q * 0.25).reshape(steps, n, 16, tokens)
        x = x + self.proj_lif(self.proj(self.attn_lif(attended)))
        x = x + self.fc2_lif(self.fc2(self.fc1_lif(self.fc1(x))))
        logits: torch.Tensor = self.head(x.mean(-1))
        return logits


class Fused(nn.Module):
    """Token-last attention with fused q, k and v, taken apart along an axis of its own."""

    T = 2

    def __init__(self) -> None:
        super().__init__()
        dim = 16
        self.stem = nn.Sequential(
            layer.Conv2d(3, 8, 3, padding=1, stride=2, bias=False), layer.BatchNorm2d(8),
            neuron.IFNode(), layer.Conv2d(8, dim, 3, padding=1, stride=2, bias=False),
            layer.BatchNorm2d(dim), neuron.IFNode(),
        )  # fmt: skip
        self.qkv = layer.Linear(dim, 3 * dim, bias=False)
        self.qkv_bn = layer.BatchNorm1d(3 * dim)
        self.qkv_lif, self.attn_lif = neuron.LIFNode(), neuron.LIFNode(v_threshold=0.5)
        self.proj, self.proj_lif = layer.Linear(dim, dim), neuron.LIFNode()
        self.mlp = nn.Sequential(
            layer.Conv1d(dim, 32, 1), layer.BatchNorm1d(32), neuron.LIFNode(),
            layer.Conv1d(32, dim, 1), layer.BatchNorm1d(dim), neuron.LIFNode(),
        )  # fmt: skip
        self.head = nn.Linear(dim, 5)
        functional.set_step_mode(self, "m")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x.unsqueeze(0).repeat(self.T, 1, 1, 1, 1)).flatten(3).transpose(2, 3)
        steps, n, tokens, dim = x.shape
        y = self.qkv_bn(self.qkv(x).transpose(2, 3)).transpose(2, 3)
        y = self.qkv_lif(y).reshape(steps, n, tokens, 3, 2, dim // 2).permute(3, 0, 1, 4, 2, 5)
        q, k, v = y
        attended = (q @ k.transpose(-1, -2) @ v * 0.25).transpose(2, 3)
        x = x + self.proj_lif(self.proj(self.attn_lif(attended.reshape(steps, n, tokens, dim))))
        x = x + self.mlp(x.transpose(2, 3)).transpose(2, 3)
        logits: torch.Tensor = self.head(x.mean(2)).mean(0)
        return logits


class Hooked(Operating):
    """Returns its logits with spikes of a layer, as spike-driven transformers do."""

    def __init__(self) -> None:
        super().__init__(self._seen)
        self.hook: dict[str, torch.Tensor] = {}

    def _seen(self, x: torch.Tensor) -> torch.Tensor:
        self.hook = {"lif": x}
        return x

    def forward(self, x: torch.Tensor) -> Any:
        logits = super().forward(x)
        return logits, self.hook


def hooked() -> nn.Module:
    """A network that returns `(logits, hooks)`."""
    return enliven(Hooked())


def unhooked() -> nn.Module:
    """The same, of code that has changed since: it returns logits alone."""
    return enliven(Operating(torch.nn.Identity()))


def attending() -> nn.Module:
    """What `--factory own_nets:attending` makes, with live weights."""
    return enliven(Attending())


class Scaled(Attending):
    """Reads the value of a weight, which is another in its checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(0.25))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * float(self.alpha)


def scaled() -> nn.Module:
    """A module whose code reads a weight of its checkpoint."""
    return enliven(Scaled())


class Doubled(Scaled):
    """The same weights in other code."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def doubled() -> nn.Module:
    """The same weights in other code."""
    return enliven(Doubled())


def with_another_setting() -> nn.Module:
    """The same weights and code, with a setting of a layer that neither holds."""
    net = scaled()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eps = 0.1
    return net


def attending_otherwise() -> nn.Module:
    """The same weights, with a time constant that they do not hold."""
    net = attending()
    for module in net.modules():
        if isinstance(module, neuron.LIFNode):
            module.tau = 3.0
    return net


def spikingjellys() -> nn.Module:
    """SpikingJelly's own Spikformer, as it is."""
    return enliven(
        Spikformer(
            T=2, img_size_h=16, img_size_w=16, patch_size=4, num_classes=5, embed_dims=16,
            num_heads=2, depths=1,
        )
    )  # fmt: skip


def spiking_attribute() -> nn.Module:
    """A unit whose neuron is called `neuron`."""
    net = Convolutional()
    net.net[2] = nn.Sequential(OrderedDict(neuron=neuron.IFNode(step_mode="m")))
    return enliven(net)


def wanting() -> nn.Module:
    """A factory that cannot be called."""
    raise OSError("no such data")


def no_model() -> list[int]:
    """A factory of something else."""
    return [1]
