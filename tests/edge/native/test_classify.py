"""The example program classifies as the engine does from Python, and says mistakes in one line."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from families.zoo import model_of
from small_models import LABELS, SHALLOW, make_model
from staged_models import export_stages, middle_margin, normalised

from primesvt_deploy.artifact.native_export import export_native
from primesvt_deploy.edge.runtime.native import NativeModel
from primesvt_deploy.edge.runtime.native_library import OWN_SOURCES
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.settings import Precision

pytestmark = pytest.mark.slow  # the engine is compiled

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
FRAMES = RNG.integers(0, 4, (2, 2, 2, 16, 16)).astype(np.float32)
STRICT = "-Wall -Wextra -Wconversion -Wpedantic -Werror"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, compiled without a warning."""
    directory = tmp_path_factory.mktemp("build")
    options = (f"BUILD={directory}", f"WARNINGS={STRICT}", "CFLAGS=-O1", "CC=gcc")
    subprocess.run(["make", "--silent", "-C", OWN_SOURCES, *options], check=True)
    return directory / "classify"


def exported(model: SViT, path: Path) -> Path:
    export_native(quantize(model, 8), path, precision=Precision.INT8)
    return path


@pytest.fixture(scope="module")
def exported_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(make_model(SHALLOW), tmp_path_factory.mktemp("model") / "model.svit")


@pytest.fixture
def model(exported_once: Path, tmp_path: Path) -> Path:
    """A model file in a directory of its own."""
    return Path(shutil.copy(exported_once, tmp_path / "model.svit"))


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def ppm(pixels: np.ndarray, header: str = "P6\n{} {}\n255\n") -> bytes:
    height, width, _ = pixels.shape
    return header.format(width, height).encode() + pixels.tobytes()


def run(program: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *arguments], capture_output=True, text=True)


def said(program: Path, *arguments: str | Path) -> str:
    """What it prints; it must succeed."""
    ended = run(program, *arguments)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


def mistake(program: Path, *arguments: str | Path) -> str:
    """The one line that it ends with."""
    ended = run(program, *arguments)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1
    return ended.stderr.removeprefix("error: ").rstrip("\n")


def line(path: Path, logits: np.ndarray, labels: tuple[str, ...] | None = None) -> str:
    """The line that is expected for an image."""
    wide = np.exp(logits.astype(np.float64) - logits.max())
    shares = 100 * wide / wide.sum()
    names = [f"{i} ({labels[i]})" if labels else str(i) for i in range(len(shares))]
    best = np.argsort(-shares, kind="stable")[:3]
    return f"{path}: " + ", ".join(f"{names[i]} {shares[i]:.1f}%" for i in best) + "\n"


def test_images_are_classified_as_from_python(program: Path, model: Path, tmp_path: Path) -> None:
    paths = [
        written(tmp_path / "a.ppm", ppm(IMAGES[0])),
        written(tmp_path / "b.raw", IMAGES[1].tobytes()),
        written(tmp_path / "c.ppm", ppm(IMAGES[2], "P6 # wide\n#high\n {}\t{} # most\r255\n")),
    ]
    expected = "".join(map(line, paths, NativeModel(model).logits_of_pixels(IMAGES)))
    assert said(program, model, *paths) == expected


def test_a_run_that_stops_early_says_when(program: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.svit"
    export_stages(path, margin=middle_margin(IMAGES))
    paths = [written(tmp_path / f"{i}.raw", image.tobytes()) for i, image in enumerate(IMAGES)]
    model = NativeModel(path)
    logits = model.logits_of_pixels(IMAGES)
    _, timesteps = model.logits_and_timesteps(normalised(IMAGES))
    assert len(set(timesteps)) == 2
    lines = [
        f"{line(p, x).strip()}; T = {t}\n" for p, x, t in zip(paths, logits, timesteps, strict=True)
    ]
    assert said(program, path, *paths) == "".join(lines)
    timed = said(program, "--time", "2", path, *paths)
    assert f" ms, {timesteps.mean():.3f} timesteps\n" in timed


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_labels_stand_beside_the_model(program: Path, model: Path, end: str) -> None:
    image = written(model.with_name("a.raw"), IMAGES[0].tobytes())
    names = (*LABELS[:4], "élan, or elk")
    written(model.with_name("labels.txt"), (end.join(names) + end).encode())
    (logits,) = NativeModel(model).logits_of_pixels(IMAGES[:1])
    assert said(program, model, image) == line(image, logits, names)


def test_a_path_without_a_directory(program: Path, model: Path) -> None:
    written(model.with_name("a.raw"), IMAGES[0].tobytes())
    written(model.with_name("labels.txt"), "\n".join(LABELS).encode())
    found = subprocess.run(
        [program, "model.svit", "a.raw"], cwd=model.parent, capture_output=True, text=True
    )
    assert found.stdout.startswith("a.raw: ") and "(" in found.stdout


def test_event_frames_are_floats(program: Path, tmp_path: Path) -> None:
    model = exported(model_of("spikformer, frames"), tmp_path / "model.svit")
    inputs = np.ascontiguousarray(np.moveaxis(FRAMES, -3, -1))
    paths = [written(tmp_path / f"{i}.f32", sample.tobytes()) for i, sample in enumerate(inputs)]
    expected = "".join(map(line, paths, NativeModel(model).logits(FRAMES)))
    assert said(program, model, *paths) == expected
    assert mistake(program, model, written(tmp_path / "a.ppm", ppm(IMAGES[0]))) == (
        f"{tmp_path}/a.ppm: found a PPM, expected 4096 bytes of float32 values: this model takes "
        "no RGB pixels"
    )
    assert mistake(program, model, written(tmp_path / "x", b"\x93NUMPY" + bytes(4096))) == (
        f"{tmp_path}/x: found a .npy file of 4102 bytes, expected 4096: the float32 values of 2 "
        "frames, 16 rows, 16 columns, 2 channels, and nothing else"
    )
    inputs[0, 0, 0, 0, 0] = np.nan
    assert "found NaN or infinity" in mistake(program, model, written(paths[0], inputs[0]))


def test_it_says_how_long_and_how_much_memory(program: Path, model: Path) -> None:
    image = written(model.with_name("a.raw"), IMAGES[0].tobytes())
    first, second = said(program, "--time", "20", model, image, image).splitlines()[1:]
    found = re.fullmatch(
        r"first result ([\d.]+) ms after the start; then median ([\d.]+) ms, least ([\d.]+) ms "
        r"of 40 runs \((\w+) kernels\); peak resident memory ([\d.]+) MB",
        second,
    )
    assert first.startswith(f"{image}: ") and found
    started, median, least, memory = (float(found[i]) for i in (1, 2, 3, 5))
    assert 0 < least <= median and started > 0
    assert found[4] == NativeModel(model).kernels
    assert 0.5 < memory < 20


RESIZE = "`magick IN -resize 16x16^ -gravity center -extent 16x16 OUT.ppm`"
EXPECTED = (
    "expected a binary PPM (P6) of 16x16 or 768 bytes of pixels: convert it, such as with "
    "ImageMagick"
)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (
            ppm(IMAGES[0, :8]),
            f"found a PPM of 16x8, expected 16x16: resize it, such as by {RESIZE}",
        ),
        (ppm(IMAGES[0])[:-1], "found a PPM with 767 bytes of pixels, expected 768: write it again"),
        (
            ppm(IMAGES[0]) + b"\n",
            "found a PPM with at least 769 bytes of pixels, expected 768: write it again",
        ),
        (
            b"P6 16 16 65535 " + bytes(1536),
            "found a PPM of values up to 65535, expected 255: convert it to 8 bits",
        ),
        (b"P6 16 -16 255 ", f"found a damaged PPM of 14 bytes, {EXPECTED}"),
        (b"P6 16 16000000000000000000 255 ", f"found a damaged PPM of 31 bytes, {EXPECTED}"),
        (b"P6#", f"found a damaged PPM of 3 bytes, {EXPECTED}"),
        (b"P6 16 16 255", f"found a damaged PPM of 12 bytes, {EXPECTED}"),
        (b"P3 16 16 255 0 0 0", f"found a text PPM of 18 bytes, {EXPECTED}"),
        (b"P5 16 16 255 " + bytes(256), f"found a gray PGM of 269 bytes, {EXPECTED}"),
        (b"\xff\xd8\xff\xe0" + bytes(9000), f"found a JPEG of at least 4865 bytes, {EXPECTED}"),
        (b"", f"found a file of 0 bytes, {EXPECTED}"),
        (bytes(767), f"found a file of 767 bytes, {EXPECTED}"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value[:30],
)
def test_an_image_that_does_not_fit_is_one_line(
    program: Path, model: Path, content: bytes, found: str
) -> None:
    image = written(model.with_name("image"), content)
    assert mistake(program, model, image) == f"{image}: {found}"


class TestGrey:
    """A model of one channel takes PGM files."""

    @pytest.fixture(scope="class")
    def grey(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        model = make_model(replace(SHALLOW, in_channels=1))
        return exported(model, tmp_path_factory.mktemp("grey") / "model.svit")

    def test_pgm_and_raw_bytes(self, program: Path, grey: Path, tmp_path: Path) -> None:
        images = IMAGES[..., :1]
        paths = [
            written(tmp_path / "a.pgm", ppm(images[0], "P5\n{} {}\n255\n")),
            written(tmp_path / "b.raw", images[1].tobytes()),
        ]
        expected = "".join(map(line, paths, NativeModel(grey).logits_of_pixels(images[:2])))
        assert said(program, grey, *paths) == expected

    @pytest.mark.parametrize(
        ("content", "found"),
        [
            (ppm(IMAGES[0]), "found a PPM, expected a PGM (P5), as this model takes grey pixels"),
            (
                b"P5 28 28 255 " + bytes(784),
                "found a PGM of 28x28, expected 16x16: resize it, such as by `magick IN -resize "
                "16x16^ -gravity center -extent 16x16 OUT.pgm`",
            ),
            (b"P5 16 16 255 " + bytes(255), "found a PGM with 255 bytes of pixels, expected 256"),
            (b"P5 16", "found a damaged PGM of 5 bytes, expected a binary PGM (P5) of 16x16"),
            (IMAGES[0].tobytes(), "found a file of 768 bytes, expected a binary PGM (P5) of 16x16"),
        ],
    )
    def test_other_files(
        self, program: Path, grey: Path, tmp_path: Path, content: bytes, found: str
    ) -> None:
        image = written(tmp_path / "image", content)
        assert mistake(program, grey, image).startswith(f"{image}: {found}")


def test_mistakes_in_files_are_one_line(program: Path, model: Path, tmp_path: Path) -> None:
    image = written(tmp_path / "a.raw", IMAGES[0].tobytes())
    none = tmp_path / "none"
    assert mistake(program, model, none) == f"{none}: No such file or directory: check the path"
    assert mistake(program, model, tmp_path) == f"{tmp_path}: Is a directory: check the path"
    assert mistake(program, none, image) == f"{none}: the file cannot be read: check its path"
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        assert mistake(program, path, image) == f"{path}: the file cannot be read: check its path"
    other = written(tmp_path / "other", b"")
    assert "not a model.svit file" in mistake(program, other, image)
    content = model.read_bytes()
    assert "shorter or longer" in mistake(program, written(other, content[:-1]), image)
    altered = content[:-300] + bytes([content[-300] ^ 1]) + content[-299:]
    assert "its SHA-256 differs" in mistake(program, written(other, altered), image)


@pytest.mark.parametrize("count", [4, 6])
def test_labels_of_another_model_are_one_line(program: Path, model: Path, count: int) -> None:
    image = written(model.with_name("a.raw"), IMAGES[0].tobytes())
    labels = written(model.with_name("labels.txt"), b"x\n" * count)
    assert mistake(program, model, image) == (
        f"{labels}: found {count} lines, expected 5, one a class: correct or remove it"
    )


USAGE = "usage: classify [--time RUNS] model.svit IMAGE..."


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ([], "no model file, expected a model file and images: "),
        (["model.svit"], "no image, expected a model file and images: "),
        (["--time", "3", "model.svit"], "no image, expected a model file and images: "),
        (["--threads", "2"], "--threads, expected --time or a model file: "),
        (["--time"], "--time alone, expected a whole number from 1: "),
        *(
            (["--time", text, "m", "i"], f"--time {text}, expected a whole number from 1: ")
            for text in ("0", "-1", "3x", "", "99999999999999999999")
        ),
    ],
    ids=str,
)
def test_mistakes_in_arguments_are_one_line(
    program: Path, arguments: list[str], found: str
) -> None:
    assert mistake(program, *arguments) == f"found {found}{USAGE}"


def test_it_says_how_it_is_used(program: Path) -> None:
    told = subprocess.run([program, "--help"], capture_output=True, text=True, check=True)
    assert (told.stdout, told.stderr) == (f"{USAGE}\n", "")


def test_too_many_runs_are_one_line(program: Path) -> None:
    assert mistake(program, "--time", "500001", "model.svit", "a", "b") == (
        "found --time 500001, expected at most 500000 with 2 images: pass less"
    )


def test_a_full_disk_is_one_line(program: Path, model: Path) -> None:
    image = written(model.with_name("a.raw"), IMAGES[0].tobytes())
    with open("/dev/full", "w") as full:
        ended = subprocess.run([program, model, image], stdout=full, stderr=subprocess.PIPE)
    assert ended.returncode == 2
    assert ended.stderr == b"error: the output cannot be written: No space left on device\n"
