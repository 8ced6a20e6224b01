"""Labels that say which channel each element of a tensor belongs to.

Each output channel of a layer has a number. A tensor has planes of numbers, of its own shape or
with axes of length 1 along which the number is the same: an activation has one plane, whose
numbers vary along its channel axis (or along two, once channels are split into heads); a product
of keys and values has one for each. Operations that move elements move numbers alike, and where two
elements meet, their channels are joined: they can only leave together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

__all__ = [
    "NO_CHANNEL",
    "Channels",
    "Planes",
    "along_one_axis",
    "compressed",
    "varying_axes",
]

NO_CHANNEL = -1
"""Number of elements that belong to no channel."""

Planes = tuple[torch.Tensor, ...]


def compressed(plane: torch.Tensor) -> torch.Tensor:
    """A plane with length 1 along each axis on which it does not change."""
    for axis in range(plane.ndim):
        if plane.shape[axis] > 1:
            first = plane.narrow(axis, 0, 1)
            if plane.stride(axis) == 0 or bool((plane == first).all()):
                plane = first
    return plane.clone()


def along_one_axis(plane: torch.Tensor) -> torch.Tensor | None:
    """A plane some of whose elements have no channel, as the border of a padded image.

    They belong to the channel of the rest of their row, whatever they hold.

    Returns:
        The plane with the numbers of whole rows; None: rows hold several channels.
    """
    missing = plane == NO_CHANNEL
    if not bool(missing.any()):
        return plane
    count = len(plane[~missing].unique())
    for axis in varying_axes(plane):
        rows = plane.movedim(axis, 0).flatten(1)
        numbers = rows.amax(dim=1)
        alike = bool(((rows == numbers[:, None]) | (rows == NO_CHANNEL)).all())
        if alike and len(numbers[numbers != NO_CHANNEL].unique()) == count > 1:
            shape = [len(rows) if other == axis else 1 for other in range(plane.ndim)]
            return numbers.reshape(shape)
    return None


def varying_axes(plane: torch.Tensor) -> tuple[int, ...]:
    """Axes along which a compressed plane changes."""
    return tuple(axis for axis, size in enumerate(plane.shape) if size > 1)


class Channels:
    """Numbers of channels, which of them leave together, and which cannot leave.

    Attributes:
        fixed: by number of a channel, why it cannot leave.
    """

    def __init__(self) -> None:
        self._parents: list[int] = []
        self.fixed: dict[int, str] = {}

    def new(self, count: int) -> torch.Tensor:
        """Numbers for so many channels, `[count]`."""
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return torch.arange(first, first + count)

    def root(self, number: int) -> int:
        """The number that stands for all channels that leave together with this one."""
        while self._parents[number] != number:
            self._parents[number] = self._parents[self._parents[number]]
            number = self._parents[number]
        return number

    def join(self, first: torch.Tensor, second: torch.Tensor) -> None:
        """Join the channels of two planes, element by element; they are broadcast."""
        first, second = torch.broadcast_tensors(first, second)
        both = (first != NO_CHANNEL) & (second != NO_CHANNEL)
        pairs = torch.stack([first[both], second[both]]).unique(dim=1)
        for one, other in pairs.T.tolist():
            self._parents[self.root(other)] = self.root(one)

    def join_along(self, plane: torch.Tensor, axis: int) -> None:
        """Join all channels that a plane has at the same index of an axis."""
        for row in plane.movedim(axis, 0).flatten(1):
            numbers = row[row != NO_CHANNEL].unique()
            if len(numbers) > 1:
                self.join(numbers[:1], numbers)

    def fix(self, planes: Iterable[torch.Tensor], reason: str) -> None:
        """Say why the channels of some planes cannot leave; the first reason stays."""
        for plane in planes:
            for number in plane.unique().tolist():
                if number != NO_CHANNEL:
                    self.fixed.setdefault(number, reason)

    def roots(self, plane: torch.Tensor) -> torch.Tensor:
        """A plane with each number replaced by its root."""
        numbers, places = plane.unique(return_inverse=True)
        mapped = [n if n == NO_CHANNEL else self.root(n) for n in numbers.tolist()]
        return torch.tensor(mapped)[places]


def moved(
    planes: Planes, shape: torch.Size, move: Callable[[torch.Tensor], torch.Tensor]
) -> Planes:
    """Planes of a tensor after an operation that only moves its elements.

    Args:
        planes: of a tensor of `shape`.
        shape: of the tensor.
        move: the operation.
    """
    return tuple(compressed(move(plane.expand(shape))) for plane in planes)
