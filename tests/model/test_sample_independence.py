"""Modules whose samples see each other are refused, with the layer where it begins."""

from __future__ import annotations

import pytest
import torch
from own_nets import Convolutional
from small_models import enliven
from spikingjelly.activation_based import neuron
from torch import nn

from primesvt_deploy import adopt
from primesvt_deploy.errors import ModelError
from primesvt_deploy.families.qkformer_checkpoint import QKFORMER
from primesvt_deploy.model import sample_independence

KINDS = {
    "norm": r"begins in norm \(BatchNorm2d without running statistics\)\..*track_running_stats",
    "largest of the batch": r"begins in the code between the input and conv \(Conv2d\)",
    "mean image": r"begins in the code between the input and conv \(Conv2d\)",
    "size of the batch": r"begins in the code between the input and conv \(Conv2d\)",
    "rolled": r"begins in the code between lif and second \(LIFNode\)",
    "reversed": r"begins in the code between lif and second \(LIFNode\)",
    "less the first": r"begins in the code between lif and second \(LIFNode\)",
    "time and batch confused": r"begins in the code between lif and second \(LIFNode\)",
    "largest spike": r"begins in the code between second and head \(Linear\)",
    "softmax over the batch": r"begins behind head\.",
}


class Mixing(nn.Module):
    """Lets samples see each other in one place; "" in none."""

    T = 4

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8, track_running_stats=kind != "norm")
        self.lif, self.second = (neuron.LIFNode(step_mode="m") for _ in range(2))
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "largest of the batch":
            x = x / x.abs().max()
        if self.kind == "mean image":
            x = x - x.mean(0, keepdim=True)
        if self.kind == "size of the batch":
            x = x * x.shape[0]
        x = x.unsqueeze(0).repeat(self.T, 1, 1, 1, 1)
        x = self.lif(self.norm(self.conv(x.flatten(0, 1))).unflatten(0, x.shape[:2]))
        if self.kind == "rolled":
            x = x.roll(1, dims=1)
        if self.kind == "reversed":
            x = x.flip(1)
        if self.kind == "less the first":
            x = x - 0.5 * x[:, :1]
        if self.kind == "time and batch confused":
            x = x.reshape(x.shape[1], x.shape[0], *x.shape[2:]).transpose(0, 1).contiguous()
        x = self.second(2 * x).flatten(3).mean(3)
        if self.kind == "largest spike":
            x = x - x.amax()
        logits: torch.Tensor = self.head(x).mean(0)
        return logits.softmax(0) if self.kind == "softmax over the batch" else logits


@pytest.mark.parametrize(("kind", "said"), KINDS.items(), ids=list(KINDS))
def test_samples_that_see_each_other_are_refused_where_it_begins(kind: str, said: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        adopt(enliven(Mixing(kind)), image_size=8)
    assert "change with the images beside it in the batch" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_samples_by_themselves_are_adopted() -> None:
    assert adopt(enliven(Mixing("")), image_size=8).config.num_classes == 5


def test_event_frames_are_compared_along_their_own_batch_axis() -> None:
    class Rolled(Convolutional):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.roll(1, dims=1))

    adopt(enliven(Convolutional(channels=2)), image_size=8, timesteps=3)
    with pytest.raises(ModelError, match=r"begins in the code between the input and net\.0"):
        adopt(enliven(Rolled(channels=2)), image_size=8, timesteps=3)


def test_code_that_squeezes_a_batch_of_one_away_is_refused() -> None:
    class Squeezed(Mixing):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).squeeze()

    with pytest.raises(ModelError, match="does its code squeeze the batch away"):
        adopt(enliven(Squeezed("")), image_size=8)


def test_code_that_asks_for_the_size_of_the_batch_is_refused() -> None:
    class Asking(Mixing):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * (2.0 if x.shape[0] == 1 else 1.0)

    with pytest.raises(ModelError, match="takes another way for one image than for several"):
        adopt(enliven(Asking("")), image_size=8)


def test_logits_that_are_no_numbers_are_refused() -> None:
    class Dividing(Mixing):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) / torch.zeros(())

    with pytest.raises(ModelError, match="gives NaN or infinity for noise"):
        adopt(enliven(Dividing("")), image_size=8)


def test_a_known_familys_module_that_mixes_samples_is_led_to_the_family(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Upstream's QKFormer lets a neuron run over T*N: its family has the per-sample form."""
    monkeypatch.setattr(sample_independence, "recognise", lambda keys: QKFORMER)
    with pytest.raises(ModelError, match=r"keys of qkformer.*pass --checkpoint without --factory"):
        adopt(enliven(Mixing("time and batch confused")), image_size=8)
