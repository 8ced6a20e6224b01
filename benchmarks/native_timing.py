"""Time ONNX Runtime and the native engine side by side, with fewer vector instructions if need be.

    python benchmarks/native_timing.py FOLDER RUNS WARMUP THREADS...

times the artifacts in a folder on the samples of its `inputs.npy` and prints JSON. ONNX Runtime
chooses its kernels by what `cpuid` says and has no switch for it, so a copy of its library is made
to run without AMX (the matrix unit of servers), without VNNI, or without AVX-512 at all: in the
copy, the tests are replaced that choose those kernels. The native engine has its choice replaced
when it is compiled.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from primesvt_deploy.edge.runtime.native import NativeModel
from primesvt_deploy.edge.runtime.native_library import READY_LIBRARY, compile_library
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.measure.latency import Latency, measure_latency

ROOT = Path(__file__).resolve().parent.parent
THREADS = (1, 2)
AS_IT_IS, NO_AMX, NO_VNNI, AVX2 = "as it is", "VNNI without AMX", "AVX-512 without VNNI", "AVX2"
HAS_AMX = " amx_int8 " in Path("/proc/cpuinfo").read_text()
LIMITED = (*[NO_AMX] * HAS_AMX, NO_VNNI, AVX2)
"""What processors have less of; without AMX is what a processor is that has none."""
_SUPPORTED = "__builtin_cpu_supports(x)"
ENGINE_OPTIONS = {
    AS_IT_IS: (),
    NO_AMX: (),  # the engine has no use for it
    NO_VNNI: (f'-D{_SUPPORTED}=(sizeof(x)!=sizeof"avx512vnni"&&{_SUPPORTED})',),
    AVX2: (f"-D{_SUPPORTED}=((x)[3]==50)",),
}
"""The compiler's options; avx2 and bmi2 have a 2 where avx512f and its extensions have a 5."""
_CORE = re.escape(bytes.fromhex("4181e2000002c0"))  # and r10d, the bits of AVX-512 BW, DQ and VL
_VNNI = re.compile(_CORE + b".{0,400}?" + re.escape(bytes.fromhex("81e700080000")), re.DOTALL)
_AVX512 = re.compile(re.escape(bytes.fromhex("a8e00f84")) + b".{0,400}?" + _CORE, re.DOTALL)
_AMX = re.compile(re.escape(bytes.fromhex("41f7d14181e100000003")))  # not r9d; and r9d, AMX bits
Run = Callable[[npt.NDArray[Any]], object]


def over_samples(run: Run, samples: npt.NDArray[Any]) -> Callable[[], object]:
    """A call that runs another sample each time."""
    each = itertools.cycle([samples[i : i + 1] for i in range(len(samples))])
    return lambda: run(next(each))


def artifacts_of(folder: Path, threads: int) -> dict[str, Run]:
    """Runners of the artifacts `PRECISION.onnx` and `PRECISION.svit` in a folder."""
    runners: dict[str, Run] = {}
    for path in sorted(folder.glob("*.onnx")):
        runners[f"onnx_{path.stem}"] = OnnxModel(path, threads=threads).logits
    for path in sorted(folder.glob("*.svit")):
        runners[f"native_{path.stem}"] = NativeModel(path, threads=threads).logits
    return runners


def timed(
    runners: Mapping[str, Run], samples: npt.NDArray[Any], *, runs: int, warmup: int
) -> dict[str, Any]:
    """Latencies of interleaved rounds, and speeds as multiples of the others'.

    Args:
        runners: what to time, by name.
        samples: one after another, another one each round.
        runs: rounds.
        warmup: untimed rounds before.
    """
    calls = {name: over_samples(run, samples) for name, run in runners.items()}
    found = measure_latency(calls, runs=runs, warmup=warmup)
    return {
        "runs": runs,
        **{name: latency.to_dict() for name, latency in found.items()},
        "times_faster": {
            name: {other: _ratio(found, other, name) for other in found if other != name}
            for name in found
            if name.startswith("native_")
        },
    }


def _ratio(found: Mapping[str, Latency], slow: str, fast: str) -> float:
    """Median of the ratios round by round: each round has one sample for all."""
    rounds = np.divide(found[slow].milliseconds, found[fast].milliseconds)
    return round(float(np.median(rounds)), 3)


def with_fewer_instructions(
    folder: Path, kept: str, *, runs: int, warmup: int, threads: Sequence[int] = THREADS
) -> Any:
    """Time the artifacts in a folder in a process without some vector instructions.

    Args:
        folder: of artifacts and `inputs.npy`.
        kept: one of `LIMITED`.
        runs: rounds.
        warmup: untimed rounds before.
        threads: thread counts.

    Returns:
        Latencies by thread count, or why there are none.
    """
    return run_limited([__file__, *map(str, (folder, runs, warmup, *threads))], kept)


def run_limited(program: Sequence[str], kept: str) -> Any:
    """Run a Python program without some vector instructions; the JSON of its last line.

    Args:
        program: its file and arguments.
        kept: one of `LIMITED`.

    Returns:
        Its answer; or, under `not_measured`, why it was not run.
    """
    with tempfile.TemporaryDirectory(prefix="onnxruntime-") as name:
        site = Path(name)
        missing = _limit_onnxruntime(site, kept)
        if missing:
            return {"not_measured": missing}
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}
        library = compile_library(["cc", *ENGINE_OPTIONS[kept]], site)
        environment[READY_LIBRARY] = str(library)
        line = [sys.executable, *program]
        done = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def _limit_onnxruntime(site: Path, kept: str) -> str:
    """Copy ONNX Runtime and alter its choice of kernels; why that cannot be done, or nothing."""
    found = find_spec("onnxruntime")
    assert found is not None and found.origin is not None
    copy = site / "onnxruntime"
    left_out = shutil.ignore_patterns("libonnxruntime.so*", "tools", "transformers", "quantization")
    shutil.copytree(Path(found.origin).parent, copy, ignore=left_out)
    (library,) = (copy / "capi").glob("onnxruntime_pybind11_state*.so")
    content = bytearray(library.read_bytes())
    changes = [(_AMX, 0, b"\x0f\x1f\x00")] * HAS_AMX  # nop: bits that are there look missing
    if kept == NO_VNNI:
        changes.append((_VNNI, -4, bytes(4)))  # and edi, 0
    elif kept == AVX2:
        changes.append((_AVX512, 0, b"\x0c\x01"))  # or al, 1: not supported
    for pattern, place, change in changes:
        places = list(pattern.finditer(content))
        if len(places) != 1:
            return "this onnxruntime chooses its kernels in another way: the test was not found"
        start = (places[0].end() if place < 0 else places[0].start()) + place
        content[start : start + len(change)] = change
    library.write_bytes(content)
    return ""


def main() -> None:
    """Time the artifacts in a folder and print JSON."""
    folder, runs, warmup = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    samples = np.load(folder / "inputs.npy")
    rows = [
        {
            "threads": threads,
            **timed(artifacts_of(folder, threads), samples, runs=runs, warmup=warmup),
        }
        for threads in map(int, sys.argv[4:])
    ]
    (native,) = list(folder.glob("int8.svit"))
    print(json.dumps({"kernels": NativeModel(native).kernels, "by_threads": rows}))


if __name__ == "__main__":
    main()
