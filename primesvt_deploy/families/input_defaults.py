"""Evaluation preprocessing that a family's published models use."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CIFAR", "GREY_STATISTICS", "IMAGENET", "InputDefaults"]

CIFAR = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
"""Mean and standard deviation of CIFAR-10's RGB channels, for values in 0..1."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of ImageNet's RGB channels, for values in 0..1."""

GREY_STATISTICS = ((0.5,), (0.5,))
"""Mean and standard deviation of grey images, where nobody gives those of the training."""


@dataclass(frozen=True, kw_only=True)
class InputDefaults:
    """Evaluation preprocessing where the user gives none.

    Args:
        resize_at_224: length that the shorter side is resized to before a crop of 224 pixels;
            other sizes in proportion. Up to 64 pixels images are neither enlarged nor cropped.
        crops_above_224: whether inputs of more than 224 pixels are cropped from images enlarged
            in proportion too, or images are resized to just that size.
        interpolation: `bicubic` or `bilinear`.
        small: mean and standard deviation, per channel, for inputs up to 64 pixels.
        large: mean and standard deviation, per channel, for larger inputs.
    """

    resize_at_224: int = 224
    crops_above_224: bool = True
    interpolation: str = "bicubic"
    small: tuple[tuple[float, ...], tuple[float, ...]] = CIFAR
    large: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET

    def resize(self, size: int) -> int:
        """Length of the shorter side, pixels, before a crop of `size` pixels."""
        whole = size <= 64 or (size > 224 and not self.crops_above_224)
        return size if whole else size * self.resize_at_224 // 224

    def statistics(
        self, size: int, channels: int = 3
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation, per channel, for inputs of `size` pixels."""
        if channels == 1:
            return GREY_STATISTICS
        return self.small if size <= 64 else self.large
