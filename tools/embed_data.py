"""Make a bundled data set from an ImageFolder with `train/` and `test/`.

    python tools/embed_data.py CIFAR10_FOLDER models/data/cifar10.npz

Keeps the bytes of JPEG files: all of `test/`, split once into search and held-out halves, and
`--train` images of `train/`, equally many of each class. The format is that of `data/bundled.py`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from primesvt_deploy.data.images import halves
from primesvt_deploy.edge.whole_file import whole_file


def main() -> None:
    """Write the `.npz`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--train", type=int, default=5000, help="training images to keep")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice and of the split")
    options = parser.parse_args()
    classes = sorted(path.name for path in (options.folder / "test").iterdir())
    test, test_labels = listed(options.folder / "test", classes)
    train, train_labels = listed(options.folder / "train", classes)
    generator = np.random.default_rng(options.seed)
    chosen = np.concatenate(
        [
            np.sort(generator.permutation(np.flatnonzero(train_labels == k))[:per_class])
            for k, per_class in enumerate([options.train // len(classes)] * len(classes))
        ]
    )
    search, _ = halves(test_labels, seed=options.seed, source="test")
    files = [path.read_bytes() for path in [*test, *(train[i] for i in chosen)]]
    split = np.zeros(len(files), dtype=np.uint8)
    split[: len(test)] = 2
    split[search] = 1
    with whole_file(options.output) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            jpeg=np.frombuffer(b"".join(files), dtype=np.uint8),
            offsets=np.cumsum([0, *map(len, files)], dtype=np.int64),
            labels=np.concatenate([test_labels, train_labels[chosen]]),
            split=split,
            classes=np.asarray(classes),
        )


def listed(folder: Path, classes: list[str]) -> tuple[list[Path], np.ndarray]:
    """Sorted files of a folder of class folders, and their labels."""
    files = [(p, k) for k, name in enumerate(classes) for p in sorted((folder / name).iterdir())]
    return [p for p, _ in files], np.asarray([k for _, k in files], dtype=np.int64)


if __name__ == "__main__":
    main()
