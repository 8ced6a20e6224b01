"""An ImageFolder: a directory for each class, named as the class, of images or event frames.

A class that is labelled `n01440764 tench, Tinca tinca` may have the directory `n01440764`.

Images are read as the training script's loader reads them, torchvision's `ImageFolder` (the same
endings, Pillow's `convert("RGB")`), the samples in the order they are stored in: its EXIF
orientation was not applied when the network was trained, so it must not be when accuracy is
measured. `run` and `Classifier` apply it, as they get photos from phones. A model of one channel
gets them in grey.

Splits: with `train/` and one of `val/`, `validation/`, `test/` beneath, train is the former and
the latter's halves are search and held-out; with two of the latter, search is the first and
held-out the second; with class directories alone, their halves are search and held-out.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from primesvt_deploy.data.decoders import FileDecoder
from primesvt_deploy.data.images import DataSet, ImageList, fingerprint, halves, require_enough
from primesvt_deploy.edge.runtime.files import require_regular
from primesvt_deploy.edge.runtime.frames import FrameSteps
from primesvt_deploy.errors import DataError

if TYPE_CHECKING:
    from primesvt_deploy.model.svit import SViT

__all__ = [
    "FRAMES",
    "IMAGES",
    "class_folders",
    "evaluation_parts",
    "open_image_folder",
    "refuse_empty",
    "refuse_unknown_classes",
]

IMAGES = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}
FRAMES = {".npy", ".npz"}
_EVALUATION = ("val", "validation", "test")
_SYNSET = re.compile(r"n\d{8}\b")


def open_image_folder(model: SViT, root: Path, *, seed: int) -> DataSet:
    """Open an ImageFolder; its classes are matched to the model's labels by name.

    Args:
        model: the model whose labels and kind of input it must have.
        root: the directory.
        seed: seed of the split into search and held-out halves.

    Raises:
        DataError: no images, a class that the model does not have, or too few images.
    """
    parts = evaluation_parts(root, model.labels)
    files, labels = _listed(model, root, [root / name for name in parts] or [root])
    train = [root / "train"] if parts and os.path.isdir(root / "train") else []
    train_files, train_labels = _listed(model, root, train)
    everything = [*files, *train_files]
    classes = np.asarray([*labels, *train_labels], dtype=np.int64)
    of_part = np.asarray([file.relative_to(root).parts[0] for file in files])
    if len(parts) >= 2:
        search = np.flatnonzero(of_part == parts[0])
        held_out = np.flatnonzero(of_part == parts[1])
        require_enough(root, {f"{parts[0]}/": search, f"{parts[1]}/": held_out})
    else:
        search, held_out = halves(classes[: len(files)], seed=seed, source=str(root))

    paths = tuple(str(file.relative_to(root)) for file in everything)
    sizes = tuple(_size(file) for file in everything)
    decode = FileDecoder(str(root), paths, sizes, model.preprocessing)

    def chosen(numbers: npt.NDArray[np.int64]) -> ImageList:
        return ImageList(decode, numbers, classes[numbers], model.preprocessing)

    names = [f"{path}:{size}" for path, size in zip(paths, sizes, strict=True)]
    return DataSet(
        name=root.name,
        digest=fingerprint(names, classes, search, held_out),
        train=chosen(np.arange(len(files), len(everything))),
        search=chosen(search),
        held_out=chosen(held_out),
    )


def _size(file: Path) -> int:
    try:
        found = file.stat()
        require_regular(found, file)
        return found.st_size
    except OSError as error:
        raise DataError(
            f"{file} cannot be read ({error.strerror}): remove it, or mend the link it is"
        ) from error


def _listed(model: SViT, root: Path, directories: list[Path]) -> tuple[list[Path], list[int]]:
    files: list[Path] = []
    labels: list[int] = []
    suffixes = FRAMES if isinstance(model.preprocessing, FrameSteps) else IMAGES
    numbers = _class_numbers(model.labels)
    for directory in directories:
        folders = class_folders(directory)
        refuse_unknown_classes(root, folders, model.name, model.labels)
        contents = {
            folder: [p for p in _entries(folder) if p.suffix.lower() in suffixes]
            for folder in folders
        }
        refuse_empty({folder: bool(found) for folder, found in contents.items()}, suffixes)
        for folder, found in contents.items():
            files.extend(found)
            labels.extend([numbers[folder.name]] * len(found))
    return files, labels


def evaluation_parts(root: Path, labels: Collection[str] | None) -> list[str]:
    """Names of the directories of an ImageFolder to search and report on; none: it has no parts.

    Args:
        root: the ImageFolder.
        labels: of the model; None: not known yet.

    Raises:
        DataError: it has images to train on alone.
    """
    parts = [name for name in _EVALUATION if os.path.isdir(root / name)]
    if not parts and os.path.isdir(root / "train") and "train" not in (labels or ()):
        raise DataError(
            f"{root} has train/ and none of val/, validation/, test/: expected one of them, to "
            "search and report on"
        )
    return parts


def class_folders(directory: Path) -> list[Path]:
    """Directories of the classes, sorted by name.

    Raises:
        DataError: there are none.
    """
    folders = [p for p in _entries(directory) if os.path.isdir(p) and p.name[0] != "."]
    if not folders:
        raise DataError(f"{directory} has no class directories: expected one a class")
    return folders


def refuse_unknown_classes(
    root: Path, folders: Sequence[Path], name: str, labels: Sequence[str]
) -> None:
    """Refuse directories of classes that a model does not have.

    Args:
        root: the ImageFolder, for the message.
        folders: of its classes.
        name: of the model, for the message.
        labels: of the model.

    Raises:
        DataError: there are some.
    """
    numbers = _class_numbers(labels)
    unknown = [folder.name for folder in folders if folder.name not in numbers]
    if unknown:
        raise DataError(
            f"{root} has {len(unknown)} classes that {name} does not have "
            f"({', '.join(unknown[:3])}): its classes are {', '.join(labels[:3])}, ...; "
            "pass --labels with the folders' names in the order of the logits (a line may go "
            "on behind it: n01440764 tench)"
        )


def refuse_empty(holding: Mapping[Path, bool], suffixes: Collection[str]) -> None:
    """Refuse directories of classes in which no file is of a kind that is read.

    Args:
        holding: whether there is such a file, by directory.
        suffixes: endings of the files that are read.

    Raises:
        DataError: there is none: the model would be judged on other classes than was meant.
    """
    empty = [folder for folder, holds in holding.items() if not holds]
    expected = f"expected files ending with {', '.join(sorted(suffixes))}"
    if len(empty) == len(holding):
        raise DataError(f"{empty[0].parent} has 0 images in its class folders: {expected}")
    if empty:
        others = f" and {len(empty) - 1} more class folders" if empty[1:] else ""
        raise DataError(
            f"{empty[0]}{others}: no image in it, {expected}: add some, or remove the folder"
        )


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError as error:
        raise DataError(
            f"{directory} cannot be listed ({error.strerror}): check its permissions"
        ) from error


def _class_numbers(labels: Sequence[str]) -> dict[str, int]:
    """Number of each class by the names that its directory may have.

    A label that begins with an ImageNet synset, such as `n01440764 tench, Tinca tinca`, is that of
    the directory `n01440764`, too, unless several begin with it.
    """
    synsets = [(_SYNSET.match(label), number) for number, label in enumerate(labels)]
    found = [(match.group(), number) for match, number in synsets if match]
    counts = Counter(synset for synset, _ in found)
    by_synset = {synset: number for synset, number in found if counts[synset] == 1}
    # Of labels that are equal, the first, as ever.
    return by_synset | {label: number for number, label in reversed([*enumerate(labels)])}
