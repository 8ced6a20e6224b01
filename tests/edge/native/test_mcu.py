"""The engine on emulated microcontrollers: the logits of this machine, in little memory."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from families.zoo import ZOO, model_of, samples_of
from small_models import SHALLOW, make_model
from staged_models import export_stages, middle_margin, normalised

from primesvt_deploy.analysis.groups import find_groups
from primesvt_deploy.artifact.native_file import native_bytes
from primesvt_deploy.artifact.native_source import write_native_source
from primesvt_deploy.data import open_data
from primesvt_deploy.edge.runtime.native import NativeModel
from primesvt_deploy.edge.runtime.native_library import (
    OWN_SOURCES,
    READY_LIBRARY,
    compile_library,
)
from primesvt_deploy.edge.runtime.preprocess import Preprocessing
from primesvt_deploy.lowering.native.small_memory import in_little_memory
from primesvt_deploy.lowering.passes import lower_to_program
from primesvt_deploy.model.load import load
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pruning.cut import cut
from primesvt_deploy.pruning.plan import Plan, kept_width
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.settings import Precision

pytestmark = pytest.mark.slow  # the engine is compiled, and networks are traced

REFERENCE = "spikformer-2-192-cifar10"
KB = 1024
CORES = ("m7", "m55")
MOST_STACK = 4 * KB
MOST_ENGINE = 32 * KB
"""Bytes of flash that all of the engine may take."""
LIBC = {"memcpy", "memset", "memmove", "memcmp"}
MISSING = [name for name in ("arm-none-eabi-gcc", "qemu-system-arm") if not shutil.which(name)]
needs_arm = pytest.mark.skipif(bool(MISSING), reason=f"there is no {' and no '.join(MISSING)}")


@dataclass(frozen=True)
class Firmware:
    """A program that is built for a core.

    Args:
        build: where its objects and `image.elf` are.
        options: that make was given.
    """

    build: Path
    options: tuple[str, ...]

    def run(self) -> dict[str, list[str]]:
        """What it prints, by key."""
        ended = subprocess.run(
            ["make", "--silent", "-C", OWN_SOURCES / "mcu", "run", *self.options],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        found: dict[str, list[str]] = {}
        for line in ended.stdout.splitlines():
            key, _, value = line.partition(" ")
            found.setdefault(key, []).append(value)
        return found


def written(path: Path, model: SViT, bits: int) -> Path:
    """A model of that many bits in little memory, as a file."""
    quantized = quantize(model, bits)
    precision = {8: Precision.INT8, 4: Precision.INT4}[bits]
    program = lower_to_program(quantized.module.float(), quantized.config, precision=precision)
    steps = quantized.preprocessing
    normalised = isinstance(steps, Preprocessing) and not steps.pixels
    given = {"mean": steps.mean, "std": steps.std} if normalised else {}
    path.write_bytes(native_bytes(in_little_memory(program), **given))
    return path


def firmware(path: Path, images: npt.NDArray[np.uint8], core: str, **sizes: int) -> Firmware:
    """The program with a model and images, built beside the model without a warning."""
    folder = path.with_name(f"{path.stem}-{core}")
    folder.mkdir()
    write_native_source(folder, path.read_bytes())
    size = images[0].size
    declared = f"const uint8_t svit_images[{len(images)}][{size}]"
    lines = "".join(f"    {{{', '.join(map(str, image.reshape(-1)))}}},\n" for image in images)
    (folder / "images.h").write_text(
        f"#include <stdint.h>\n#define SVIT_IMAGES {len(images)}\nextern {declared};\n"
    )
    (folder / "images.c").write_text(f'#include "images.h"\n{declared} = {{\n{lines}}};\n')
    options = (
        f"MODEL={folder}", f"IMAGES={folder}", f"BUILD={folder}", f"CORE={core}",
        "WARNINGS=-Wall -Wextra -Wconversion -Werror",
        *(f"{name.upper()}={value}" for name, value in sizes.items()),
    )  # fmt: skip
    command = ["make", "--silent", "-C", OWN_SOURCES / "mcu", *options]
    subprocess.run(command, check=True, capture_output=True)
    return Firmware(folder, options)


def require_logits(found: dict[str, list[str]], expected: npt.NDArray[np.float32]) -> None:
    bits = np.array([int(value, 16) for value in found["logit"]], dtype=np.uint32)
    assert np.array_equal(bits.view(np.float32).reshape(expected.shape), expected)
    assert len(np.unique(expected)) > expected.size // 2


@pytest.fixture(scope="module", params=(8, 4))
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(f"int{request.param}", numbered=False) / "model.svit"
    if request.param == 4:
        return written(path, make_model(SHALLOW), request.param)
    # One that stops early: some of these images are sure after a timestep.
    return export_stages(path, margin=middle_margin(IMAGES), little_memory=True).path


IMAGES = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)


@needs_arm
@pytest.mark.parametrize("core", CORES)
def test_a_small_model_gives_the_same_logits(small: Path, core: str) -> None:
    built = firmware(small, IMAGES, core)
    found = built.run()
    host = NativeModel(small)
    require_logits(found, host.logits_of_pixels(IMAGES))
    (arena,), (stack,) = found["arena"], found["stack"]
    print(f"{small.parent.name} on {core}: arena {arena}, stack {stack}, ticks {found['ticks']}")
    assert int(arena) == host.arena_bytes <= 16 * KB
    assert int(stack) <= MOST_STACK
    _, timesteps = host.logits_and_timesteps(normalised(IMAGES))
    assert found["timesteps"] == list(map(str, timesteps))
    assert len(set(timesteps)) == min(len(host.stages), 2)
    engine_calls_nothing_else(built)
    assert flash_of_engine(built) <= MOST_ENGINE


def engine_objects(built: Firmware) -> list[str]:
    return [str(path) for path in sorted(built.build.glob("svit*.o"))]


def engine_calls_nothing_else(built: Firmware) -> None:
    """The engine needs four functions of libc, what the compiler itself calls, and no variables."""
    command = ["arm-none-eabi-nm", *engine_objects(built)]
    symbols = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    wanted = set(re.findall(r"^ +U (\w+)$", symbols, re.MULTILINE))
    own = set(re.findall(r"^[0-9a-f]+ [TRD] (\w+)$", symbols, re.MULTILINE))
    compilers = {name for name in wanted if name.startswith("__")}
    assert wanted - own - compilers <= LIBC
    helpers = {"uldivmod", "ldivmod", "l2f"}  # of 64 bits
    assert compilers <= {f"__aeabi_{name}" for name in helpers} | {"__popcountsi2", "__popcountdi2"}
    assert not re.findall(r"^[0-9a-f]+ [bBdDC] (\w+)$", symbols, re.MULTILINE)


def flash_of_engine(built: Firmware) -> int:
    command = ["arm-none-eabi-size", *engine_objects(built)]
    table = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return sum(int(line.split()[0]) for line in table.splitlines()[1:])


def evenly_cut(model: SViT, rate: float) -> SViT:
    """A model without the last channels of each group and head: of the size of a pruned one."""
    groups = find_groups(model.module, model.config.input_shape)
    plan = Plan()
    for group in groups:
        head, kept = group.width // group.heads, kept_width(group, rate, multiple=1) // group.heads
        stay = (h * head + i for h in range(group.heads) for i in range(kept))
        plan = plan.replacing(group.name, stay)
    return model.with_module(cut(model.module, groups, plan))


@needs_arm
def test_the_reference_cut_at_4_bits_fits_512_kb_of_flash_and_96_kb_of_ram(tmp_path: Path) -> None:
    path = written(tmp_path / "reference.svit", evenly_cut(load(REFERENCE), 0.25), 4)
    search = open_data(load(REFERENCE)).search
    images = np.stack([search.pixels(i) for i in range(2)])
    # Linking fails where the image, its RAM and 4 KB of stack do not fit.
    found = firmware(path, images, "m7", flash=512 * KB, ram=96 * KB).run()
    require_logits(found, NativeModel(path).logits_of_pixels(images))
    (arena,), (stack,) = found["arena"], found["stack"]
    instructions = [40 * int(ticks) for ticks in found["ticks"]]
    print(f"reference: arena {arena}, stack {stack}, instructions {instructions}")
    assert int(arena) + int(stack) <= 90 * KB
    assert int(stack) <= MOST_STACK
    assert max(instructions) < 400e6


@pytest.mark.parametrize(("name", "bits"), zip(ZOO, itertools.cycle((8, 4)), strict=False))
def test_small_kernels_give_the_logits_of_others_in_plain_c(
    name: str, bits: int, mcu_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each network once, every second one at 4 bits: `test_safety` has the operators of both."""
    model = model_of(name)
    path = written(tmp_path / "model.svit", model, bits)
    host, samples = NativeModel(path), samples_of(model, 4)
    if host.sample_dtype == np.uint8:
        samples = np.random.default_rng(3).integers(0, 256, samples.shape, dtype=np.uint8)
    expected = host.logits(samples)
    monkeypatch.setenv(READY_LIBRARY, str(mcu_library))
    small = NativeModel(path)
    assert small.kernels == "mcu"
    assert np.array_equal(small.logits(samples), expected)


@pytest.fixture(scope="module")
def mcu_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The engine with the small kernels, for this machine: without the DSP extension."""
    return compile_library(["gcc", "-DSVIT_MCU"], tmp_path_factory.mktemp("mcu"))
