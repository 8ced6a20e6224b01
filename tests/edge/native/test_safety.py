"""Model files that may be anything: each is refused or runs, within its memory and without races.

The engine is compiled with sanitizers, which end it where it reads or writes what is not its own.
`tools/fuzz` looks for such files at random; what is altered here is the same every time.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from families.zoo import model_of
from fuzz.made_models import made_models

from primesvt_deploy.artifact.native_export import export_native
from primesvt_deploy.edge.runtime.native_library import OWN_SOURCES
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.settings import Precision

HERE = Path(__file__).parent
FUZZ = HERE.parents[2] / "tools" / "fuzz"
SOURCES = sorted(OWN_SOURCES.glob("svit*.c"))
_TOOLS = (path for path in FUZZ.glob("*.c") if path.name != "fuzz_open.c")
RUN_PATCHED = (HERE / "run_patched.c", *_TOOLS, *SOURCES)
PRODUCTS = "-DSVIT_TAKES_PRODUCTS=1"
"""All products are summed wherever a file and the kernels allow it."""
ARM_COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64-static"
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Wpedantic", "-Werror")
COMPILERS = {
    "gcc": (),
    "clang": (),
    "aarch64-linux-gnu-gcc": (),
    "arm-none-eabi-gcc": ("-mcpu=cortex-m7", "-mthumb"),
}
FAMILIES = {"spikformer, SpikingJelly": 8, "sdt-v3": 4}
"""Networks, and the bits of their weights."""
OPERATORS = 13
"""Kinds of operators in the engine."""
RAN, TOO_LARGE, ERRORS = 0, 100, range(1, 12)
FILE_BYTES, SCRATCH_AT = 12, 12
"""Place in the header of a file's size, and in a record of where its scratch memory begins."""
EXTREMES = (0, 1, 2, 33, 255, 65535, 65536, 2**28 + 1, 2**31 - 64, 2**31 - 1, 2**31, 2**32 - 1)
NAN, INFINITY = 0x7FC00000, 0x7F800000
HEADER = struct.Struct("<8s2I32s7I10i2I")
EARLY = struct.Struct("<3I3if")

Patches = Sequence[tuple[int, Sequence[tuple[int, int]]]]
"""Altered files: how many bytes are kept, and the place and new value of words."""
slow = pytest.mark.slow  # the engine is compiled


def compiled(target: Path, sources: Sequence[Path], *options: str, compiler: str = "gcc") -> Path:
    command = [compiler, "-std=c99", "-O0", "-g", "-ffp-contract=off", "-fno-sanitize-recover=all"]
    command += [*options, f"-I{OWN_SOURCES}", f"-I{FUZZ}"]
    objects = [target.with_name(f"{source.stem}.o") for source in sources]
    for source, made in zip(sources, objects, strict=True):  # each may be there (`compiler_cache`)
        subprocess.run([*command, "-c", "-o", made, source], check=True)
    subprocess.run([*command, "-o", target, *objects], check=True)
    return target


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that runs altered files, which ends with the first mistake in memory."""
    target = tmp_path_factory.mktemp("checked") / "run_patched"
    return compiled(target, RUN_PATCHED, "-fsanitize=address,undefined", PRODUCTS, "-pthread")


@pytest.fixture(scope="module")
def made() -> dict[str, bytes]:
    return made_models(each=4)


def without_randomized_addresses() -> list[str]:
    """What sanitizers of some versions need on some kernels, where a container allows it."""
    prefix = ["setarch", "-R"]
    allowed = shutil.which("setarch") and not subprocess.run([*prefix, "true"]).returncode
    return prefix if allowed else []


def run(program: Path, *arguments: str | Path) -> str:
    """What a program prints; it must end well, without a word of a sanitizer."""
    options = {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
    ended = subprocess.run(
        [*without_randomized_addresses(), program, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **options},
    )
    assert ended.returncode == 0 and not ended.stderr, ended.stderr[-4000:]
    return ended.stdout


def outcomes(
    program: Path,
    kernels: str,
    altered: Sequence[tuple[bytes, Patches]],
    folder: Path,
    *,
    most_work: float = 1e5,
    mutations: int = 0,
) -> list[tuple[int, str, bool]]:
    """Of each altered file what became of it, the digest of its results, whether parts agree."""
    parts = []
    for model, patches in altered:
        whole = model.ljust(-(-len(model) // 4) * 4, b"\0")
        words = [x for size, changed in patches for x in (size, len(changed), *sum(changed, ()))]
        parts += [struct.pack("<I", len(whole) // 4), whole, struct.pack("<I", len(patches))]
        parts.append(np.array(words, dtype="<u4").tobytes())
    (folder / "list").write_bytes(b"".join(parts))
    lines = run(program, kernels, str(most_work), folder / "list", str(mutations)).splitlines()
    assert len(lines) == sum(len(patches) + mutations for _, patches in altered)
    return [(int(a), b, c == "1") for a, b, c in (line.split() for line in lines)]


def whole(model: bytes) -> Patches:
    """A file that is not altered."""
    return [(len(model), ())]


def available_kernels() -> list[str]:
    """Tables of kernels that this processor can run."""
    flags = Path("/proc/cpuinfo").read_text()
    if os.uname().machine == "aarch64":
        return ["neon", "mcu"]
    if os.uname().machine != "x86_64":
        return ["portable", "mcu"]
    extra = [name for name, flag in (("avx2", "avx2"), ("avx512", "avx512vl")) if flag in flags]
    return ["portable", "mcu", *extra]


def records_of(model: bytes) -> list[tuple[int, int, int]]:
    """Kind, place and words of each operator."""
    at = HEADER.unpack_from(model)[5]
    found = []
    for _ in range(HEADER.unpack_from(model)[4]):
        kind, words = struct.unpack_from("<2i", model, at)
        found.append((kind, at, words))
        at += 4 * words
    return found


def near(model: bytes, place: int) -> tuple[int, ...]:
    """Values next to that of a word."""
    (old,) = struct.unpack_from("<I", model, place)
    return (old + 1) % 2**32, (old - 1) % 2**32, old ^ 2**31


def ends(model: bytes) -> tuple[int, ...]:
    """Offsets shortly before the end of the data, and of the arena."""
    _, data, arena = HEADER.unpack_from(model)[7:10]
    return tuple((end - back) % 2**32 for end in (data, arena - 256) for back in (0, 4, 64))


def one_of_each(models: dict[str, bytes]) -> dict[str, bytes]:
    """The smallest model of each kind."""
    smallest: dict[str, bytes] = {}
    for name, model in models.items():
        kind = name.rsplit("-", 1)[0]
        if kind not in smallest or len(model) < len(smallest[kind]):
            smallest[kind] = model
    return smallest


def require_refused_or_run(found: Sequence[tuple[int, str, bool]]) -> Counter[str]:
    codes = [code for code, *_ in found]
    assert set(codes) <= {RAN, TOO_LARGE, *ERRORS}
    return Counter("refused" if code in ERRORS else "accepted" for code in codes)


# -- The same numbers -----------------------------------------------------------------------------


def require_same_numbers(program: Path, models: dict[str, bytes], folder: Path) -> None:
    """All kernels, and the parts of a run, give what the simplest ones give, to the last bit."""
    altered = [(model, whole(model)) for model in models.values()]
    found = {
        kernels: dict(
            zip(models, outcomes(program, kernels, altered, folder, most_work=1e8), strict=True)
        )
        for kernels in available_kernels()
    }
    for name, (code, _, parts_agree) in found["mcu"].items():
        assert code == RAN and parts_agree, name
    for kernels, results in found.items():
        differ = [name for name in models if results[name] != found["mcu"][name]]
        assert not differ, f"{kernels}: {differ}"


@slow
def test_kernels_and_parts_give_the_same_numbers(
    checked: Path, made: dict[str, bytes], tmp_path: Path
) -> None:
    """Every operator, with options at random, and within its memory."""
    require_same_numbers(checked, made, tmp_path)


@slow
def test_arm_gives_the_same_numbers(checked: Path, made: dict[str, bytes], tmp_path: Path) -> None:
    """Without and with instructions for dot products."""
    missing = [name for name in (ARM_COMPILER, EMULATOR) if not shutil.which(name)]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    target = tmp_path / "run_patched"
    compiled(target, RUN_PATCHED, "-O1", "-static", PRODUCTS, "-pthread", compiler=ARM_COMPILER)
    altered = [(model, whole(model)) for name, model in made.items() if "sparse" in name]
    expected = outcomes(checked, "mcu", altered, tmp_path, most_work=1e8)
    for processor in ("cortex-a72", "cortex-a76"):
        script = tmp_path / processor
        script.write_text(f'#!/bin/sh\nexec {EMULATOR} -cpu {processor} {target} "$@"\n')
        script.chmod(0o755)
        assert outcomes(script, "neon", altered, tmp_path, most_work=1e8) == expected


@slow
def test_kernels_agree_on_networks(checked: Path, tmp_path: Path) -> None:
    models = {}
    for name, bits in FAMILIES.items():
        network, path = quantize(model_of(name), bits), tmp_path / "network.svit"
        export_native(network, path, precision=Precision.INT8 if bits == 8 else Precision.INT4)
        models[name] = path.read_bytes()
    require_same_numbers(checked, models, tmp_path)


# -- Altered files --------------------------------------------------------------------------------


@slow
def test_files_that_are_cut_short(checked: Path, made: dict[str, bytes], tmp_path: Path) -> None:
    model = one_of_each(made)["sparse"]
    edges = [0, 8, 16, HEADER.size, *(at for _, at, _ in records_of(model))]
    edges += [HEADER.unpack_from(model)[7], len(model) - 256, len(model)]
    lengths = sorted({n for e in edges for n in range(max(e - 5, 0), min(e + 5, len(model)))})
    as_it_says = [(n, ()) for n in lengths]
    as_it_is = [(n, ((FILE_BYTES, n),)) for n in lengths if n >= FILE_BYTES + 4]
    found = outcomes(checked, "mcu", [(model, as_it_says), (model, as_it_is)], tmp_path)
    assert require_refused_or_run(found)["accepted"] == 0


@slow
def test_words_of_the_header(checked: Path, made: dict[str, bytes], tmp_path: Path) -> None:
    model = one_of_each(made)["sparse"]
    patches = [
        (len(model), ((place, value),))
        for place in range(0, HEADER.size, 4)
        for value in (*EXTREMES, *near(model, place))
    ]
    found = outcomes(checked, "mcu", [(model, patches)], tmp_path)
    assert require_refused_or_run(found)["refused"] > len(patches) / 2


@slow
def test_words_of_early_stages(checked: Path, made: dict[str, bytes], tmp_path: Path) -> None:
    model = one_of_each(made)["stages"]
    count, table = HEADER.unpack_from(model)[-2:]
    assert count == 1
    patches = [
        (len(model), ((place, value),))
        for place in range(table, table + EARLY.size, 4)
        for value in (*EXTREMES, NAN, INFINITY, *near(model, place), *ends(model))
    ]
    found = outcomes(checked, "mcu", [(model, patches)], tmp_path)
    seen = require_refused_or_run(found)
    # Nothing but the margin, and places in memory, may be anything.
    assert seen["refused"] > len(patches) / 2


@slow
def test_words_of_operators(checked: Path, made: dict[str, bytes], tmp_path: Path) -> None:
    """Each word of each kind of operator, set to what is at an edge of something."""
    altered, done = [], set[int]()
    for model in one_of_each(made).values():
        patches = []
        for kind, at, words in records_of(model):
            if kind in done:
                continue
            done.add(kind)
            patches += [
                (len(model), ((place, value),))
                for place in range(at, at + 4 * words, 4)
                for value in (*EXTREMES, NAN, INFINITY, *near(model, place), *ends(model))
            ]
            patches += [(len(model), ((at + SCRATCH_AT, x),)) for x in range(0, 8192, 64)]
        altered.append((model, patches))
    assert len(done) == OPERATORS
    seen = require_refused_or_run(outcomes(checked, available_kernels()[-1], altered, tmp_path))
    assert min(seen["refused"], seen["accepted"]) > 1000


@slow
def test_mutated_files(checked: Path, made: dict[str, bytes], tmp_path: Path) -> None:
    """What the fuzzer makes of models in its first steps."""
    for number, kernels in enumerate(available_kernels()):
        part = [(model, ()) for model in list(made.values())[number :: len(available_kernels())]]
        seen = require_refused_or_run(outcomes(checked, kernels, part, tmp_path, mutations=40))
        assert min(seen["refused"], seen["accepted"]) > 100


# -- Threads --------------------------------------------------------------------------------------


@slow
def test_threads_share_a_model_without_races(
    made: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("threads")
    sources = (HERE / "share_model.c", *SOURCES)
    program = compiled(folder / "share_model", sources, "-fsanitize=thread", "-pthread")
    for name in ("sparse-0", "dense-1", "attention-0", "spike-add-0", "value-pool-1", "stages-1"):
        (folder / "model.svit").write_bytes(made[name])
        run(program, folder / "model.svit")


# -- What compilers and checkers say --------------------------------------------------------------


@slow
@pytest.mark.parametrize("compiler", COMPILERS)
def test_compilers_have_nothing_to_warn_of(compiler: str) -> None:
    if not shutil.which(compiler):
        pytest.skip(f"{compiler} is not installed")
    command = [compiler, "-fsyntax-only", *STRICT, *COMPILERS[compiler], *SOURCES]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


@slow
def test_cppcheck_finds_nothing() -> None:
    if not shutil.which("cppcheck"):
        pytest.skip("cppcheck is not installed")
    root = HERE.parents[2]
    ended = subprocess.run(["make", "-s", "cppcheck"], cwd=root, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
