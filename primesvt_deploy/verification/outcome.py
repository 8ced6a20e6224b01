"""Outcome of comparing an artifact with its model, and how close the two must be.

A threshold is discontinuous: currents that differ in the last bit can flip a spike, and a flip
moves logits by far more than rounding does. So logits must agree closely on every image without
a flipped spike, and flips themselves must be rare.

Where flips are not rare, deep networks without training for one, the model is compared with itself
in double precision: rounding that flips as many spikes there explains them here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from primesvt_deploy.errors import VerificationError

__all__ = ["LOGIT_TOLERANCE", "MAX_DISAGREEMENT", "MAX_FLIP_SHARE", "Verification"]

LOGIT_TOLERANCE = 1e-4
"""Largest logit difference on an image without flipped spikes."""
MAX_FLIP_SHARE = 1e-3
"""Largest share of spikes that may differ."""
MAX_DISAGREEMENT = 0.01
"""Largest share of images whose top-1 may differ."""
ROUNDING_FACTOR = 4.0
"""So many times the flips that rounding makes in the model itself are explained by it: artifact
and model round each in its own way, so about twice as many are usual."""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Outcome of comparing an artifact with its model on the same images.

    Args:
        n: images.
        top1_disagreements: images on which the two name different classes.
        disagreeing_images: their positions.
        max_difference: largest absolute logit difference.
        max_difference_without_flips: the same over images without a flipped spike.
        images_with_flips: images with any.
        spikes_compared: neuron outputs compared, over images, timesteps and layers.
        flips: flipped spikes of each layer, one count a timestep.
        flips_on_disagreements: the same over the images that disagree in top-1.
        flips_behind_float_layers: of an integer artifact: flips that are left once the model takes
            over the outputs of the artifact's float layers; integers leave none.
        exact: whether it must be none: in the networks of known families all else is integers.
        rounding_flips: spikes that the model flips against itself in double precision, on the same
            images; None where that was not measured, as flips are rare.
        rounding_disagreements: images on which these two name different classes.
        rounding_difference: largest absolute difference of their logits.
        changed_by_neighbours: images whose logits change with those beside them in the batch.
        difference_alone: largest logit difference of an image alone and in a batch, the median
            over a few images.
    """

    n: int
    top1_disagreements: int
    disagreeing_images: tuple[int, ...]
    max_difference: float
    max_difference_without_flips: float
    images_with_flips: int
    spikes_compared: int
    flips: dict[str, tuple[int, ...]]
    flips_on_disagreements: dict[str, tuple[int, ...]]
    flips_behind_float_layers: int | None = None
    exact: bool = False
    rounding_flips: int | None = None
    rounding_disagreements: int = 0
    rounding_difference: float = 0.0
    changed_by_neighbours: int = 0
    difference_alone: float = 0.0

    @property
    def flipped_spikes(self) -> int:
        """Flipped spikes in all."""
        return sum(sum(steps) for steps in self.flips.values())

    def failures(self) -> list[str]:
        """Everything that is out of tolerance; empty if the artifact passes."""
        return [
            *self._neighbours(),
            *self._logits_beyond_rounding(),
            *self._flips_behind_float_layers(),
            *self._logits_without_flips(),
            *self._too_many_flips(),
            *self._too_many_disagreements(),
        ]

    def _neighbours(self) -> list[str]:
        found = []
        if self.changed_by_neighbours:
            found.append(
                f"the logits of {self.changed_by_neighbours} images change with those beside them "
                "in the batch"
            )
        if self.difference_alone > self._largest_by_rounding():
            found.append(
                f"logits of an image alone differ by {self.difference_alone:.3g} from those in a "
                "batch"
            )
        return found

    def _largest_by_rounding(self) -> float:
        return max(LOGIT_TOLERANCE, ROUNDING_FACTOR * self.rounding_difference)

    def _logits_beyond_rounding(self) -> list[str]:
        if self.rounding_flips is None or self.max_difference <= self._largest_by_rounding():
            return []
        return [
            f"logits differ by {self.max_difference:.3g}, by rounding in the model itself at "
            f"most by {self.rounding_difference:.3g}"
        ]

    def _flips_behind_float_layers(self) -> list[str]:
        if not (self.exact and self.flips_behind_float_layers):
            return []
        return [
            f"{self.flips_behind_float_layers} spikes are flipped behind the float layers, "
            "where integers leave none"
        ]

    def _logits_without_flips(self) -> list[str]:
        if self.max_difference_without_flips <= LOGIT_TOLERANCE:
            return []
        return [
            f"logits differ by {self.max_difference_without_flips:.3g} on images without a "
            f"flipped spike (at most {LOGIT_TOLERANCE:g})"
        ]

    def _too_many_flips(self) -> list[str]:
        explained = ROUNDING_FACTOR * (self.rounding_flips or 0)
        if self.flipped_spikes <= max(MAX_FLIP_SHARE * self.spikes_compared, explained):
            return []
        return [
            f"{self.flipped_spikes} of {self.spikes_compared} spikes are flipped "
            f"(at most {MAX_FLIP_SHARE:.1%}{self._explanation()})"
        ]

    def _too_many_disagreements(self) -> list[str]:
        allowed = MAX_DISAGREEMENT * self.n
        if self.rounding_flips is not None:
            # A few images more, as it is chance which of them rounding changes.
            spread = 2 * (self.rounding_disagreements + 1) ** 0.5
            allowed = max(allowed, self.rounding_disagreements + spread)
        if self.top1_disagreements <= allowed:
            return []
        return [
            f"top-1 differs on {self.top1_disagreements} of {self.n} images "
            f"(at most {allowed / self.n:.0%})"
        ]

    def _explanation(self) -> str:
        if self.rounding_flips is None:
            return ""
        return f"; rounding flips {self.rounding_flips} in the model itself"

    def require(self) -> Verification:
        """This verification, if it passes.

        Raises:
            VerificationError: it does not; all that is wrong is named.
        """
        found = self.failures()
        if found:
            raise VerificationError(f"the artifact is not its model: {'; '.join(found)}")
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        return {
            "passed": not self.failures(),
            "n": self.n,
            "top1_agreement_percent": round(100.0 * (1 - self.top1_disagreements / self.n), 4),
            "top1_disagreements": self.top1_disagreements,
            "disagreeing_images": list(self.disagreeing_images),
            "max_abs_logit_difference": self.max_difference,
            "max_abs_logit_difference_without_flips": self.max_difference_without_flips,
            "logit_tolerance": LOGIT_TOLERANCE,
            "images_with_flips": self.images_with_flips,
            "flipped_spikes": self.flipped_spikes,
            "spikes_compared": self.spikes_compared,
            "flips_behind_real": self.flips_behind_float_layers,
            "images_changed_by_neighbours": self.changed_by_neighbours,
            "max_abs_logit_difference_alone": self.difference_alone,
            "rounding_flips": self.rounding_flips,
            "rounding_max_abs_logit_difference": None
            if self.rounding_flips is None
            else self.rounding_difference,
            "flips": _listed(self.flips),
            "flips_on_disagreements": _listed(self.flips_on_disagreements),
        }

    def __str__(self) -> str:
        """Verification in one line."""
        behind = (
            ""
            if self.flips_behind_float_layers is None
            else f" ({self.flips_behind_float_layers} behind the float layers)"
        )
        return (
            f"top-1 equal on {self.n - self.top1_disagreements} of {self.n} images, "
            f"{self.flipped_spikes} of {self.spikes_compared} spikes flipped{behind}"
            f"{self._explanation()}, logits within {self.max_difference_without_flips:.1g} "
            "where none is"
        )


def _listed(flips: Mapping[str, Sequence[int]]) -> list[dict[str, Any]]:
    """Layers with any flips, for JSON."""
    return [{"layer": k, "by_timestep": list(v)} for k, v in flips.items() if any(v)]
