"""The documentation as tests see it: pages, code blocks, and stand-ins for the files they name."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from small_models import enliven, write_arrays, write_model_directory

from primesvt_deploy import load
from primesvt_deploy.model.reference_models import model_names
from primesvt_deploy.model.svit import SViT

__all__ = [
    "CHECKPOINT",
    "LABELS",
    "PAGES",
    "ROOT",
    "Block",
    "blocks",
    "commands",
    "write_stand_ins",
]

ROOT = Path(__file__).parent.parent
NAV = re.findall(r"^ +- (?:[^:\n]+: )?([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
PAGES = ("README.md", *(f"docs/{name}" for name in NAV), "CONTRIBUTING.md")
"""In the order in which one reads them; a page may use what an earlier one has made."""
LABELS = (
    *("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
)
CHECKPOINT = {"timesteps": 4, "num_heads": 6, "image_size": 32, "patch_size": 4}
"""Of the checkpoint that pages build: the flags that they give."""
_FENCE = re.compile(r"^( *)```(\w*)$")
_NOT_RUN = re.compile(r"<!-- not run: (.+?) -->")


@dataclass(frozen=True)
class Block:
    """A block of code in a page.

    Args:
        page: where it stands, below the root.
        line: of its opening fence.
        language: of the fence; empty for none.
        text: what is in it.
        reason: why it is not run; empty where it is.
    """

    page: str
    line: int
    language: str
    text: str
    reason: str

    @property
    def place(self) -> str:
        """Page and line."""
        return f"{self.page}:{self.line}"


def blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of a page."""
    before, opened = "", None
    content: list[str] = []
    for number, line in enumerate((ROOT / page).read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is None and fence:
            reason = _NOT_RUN.fullmatch(before)
            opened, content = (number, fence[2], reason[1] if reason else ""), []
        elif opened is not None and fence:
            yield Block(page, opened[0], opened[1], "\n".join(content) + "\n", opened[2])
            opened, before = None, ""
        elif opened is not None:
            content.append(line)
        elif line.strip():
            before = line.strip()


def commands(block: Block) -> list[list[str]]:
    """The commands of a shell block, as words; comments are left out, long lines joined."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def write_stand_ins(directory: Path) -> Path:
    """Small files under the names that pages use; the package's own models become `models/`.

    Returns:
        The directory to look for reference models in.
    """
    from spikingjelly.activation_based.model.spikformer import Spikformer

    network = enliven(
        Spikformer(
            T=4, img_size_h=32, img_size_w=32, patch_size=4, num_classes=len(LABELS),
            embed_dims=24, num_heads=6, depths=1,
        )
    )  # fmt: skip
    torch.save(network.state_dict(), directory / "checkpoint.pth")
    (directory / "names.txt").write_text("\n".join(LABELS) + "\n")
    model = load(directory / "checkpoint.pth", labels=LABELS, **CHECKPOINT)
    arrays = np.load(write_arrays(directory / "photos.npz", model, count=240))
    images, labels = arrays["images"], arrays["labels"]
    labels[: 4 * len(LABELS)] = np.arange(4 * len(LABELS)) // 4  # each class in each split
    for i, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        split = "train" if i % 2 else "val"
        folder = directory / "photos" / split / LABELS[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    Image.fromarray(images[0]).save(directory / "photo.jpg")
    root = directory / "models"
    root.mkdir()
    (root / "pyproject.toml").touch()  # by which a checkout's models are known
    for name in model_names():
        _write_reference(root, replace(model, name=name))
    _write_bundled(root / "data" / "cifar10.npz", images, labels)
    return root


def _write_reference(root: Path, model: SViT) -> None:
    directory = write_model_directory(root / model.name, model)
    description = directory / "model.toml"
    description.write_text(f'data = "cifar10"\n{description.read_text()}')


def _write_bundled(
    path: Path, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]
) -> None:
    """Image files in the format of bundled data: half of them to train, search and report."""
    files = []
    for pixels in images:
        file = BytesIO()
        Image.fromarray(pixels).save(file, "png")
        files.append(file.getvalue())
    path.parent.mkdir()
    np.savez(
        path,
        jpeg=np.frombuffer(b"".join(files), dtype=np.uint8),
        offsets=np.cumsum([0, *map(len, files)], dtype=np.int64),
        labels=labels,
        split=np.arange(len(files), dtype=np.uint8) % 4 % 3,
        classes=np.asarray(LABELS),
    )
