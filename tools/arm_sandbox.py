"""Run Python scripts on an emulated Raspberry Pi, without root and without a board.

    python tools/arm_sandbox.py setup DIR
    python tools/arm_sandbox.py run DIR --cpu cortex-a72 SCRIPT [ARGS...]

What it is for: to see that a bundle loads and runs with the real aarch64 wheels of onnxruntime and
numpy, gives the numbers it gives on x86, and meets no instruction that the CPU lacks. cortex-a72
is the Pi 4, cortex-a76 the Pi 5. Speed under qemu tells nothing about speed on a board.

`setup` fetches, to DIR alone, `qemu-user-static` (unless there is one on PATH) and Debian's arm64
Python by the machine's apt sources, and the wheels by pip's configured index. Each part is built
aside and renamed when it is whole: an interrupted `setup` is run again and goes on. Another
`--onnxruntime` comes beside the present one; `run` takes the one set up last.

Why there is a `proc/cpuinfo`: onnxruntime reads the CPU's part and features there, and its import
crashes on the x86 host's. `qemu-aarch64 -L ROOT` opens ROOT/PATH instead of PATH where that exists,
so each CPU has a root of its own: links to the shared one and its `proc/cpuinfo`. (qemu from 8.2 on
makes up an ARM `/proc/cpuinfo` itself, and that comes first.) A script sees the machine's files at
their paths, except those that ROOT has too; it cannot start other programs of the sandbox.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MARKER = "sandbox.json"
QEMU = "qemu-aarch64-static"
LOADER = "lib/ld-linux-aarch64.so.1"
FIELDS = ("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision")
CPUS = {  # as a Pi 4 and a Pi 5 tell them
    "cortex-a72": (("0x41", "8", "0x0", "0xd08", "3"), "fp asimd evtstrm crc32 cpuid"),
    "cortex-a76": (
        ("0x41", "8", "0x4", "0xd0b", "1"),
        "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc "
        "dcpop asimddp",
    ),
}
CORES = 4
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")


class Failed(Exception):
    """A step that did not work, in one line."""


def main() -> None:
    """Set up the sandbox, or become qemu with the script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    commands = parser.add_subparsers(dest="command", required=True)
    setup_parser = commands.add_parser("setup", help="make the sandbox, or go on making it")
    setup_parser.add_argument("directory", type=Path, metavar="DIR")
    setup_parser.add_argument("--onnxruntime", help="version; default: this interpreter's")
    run_parser = commands.add_parser("run", help="run a Python script in it")
    run_parser.add_argument("directory", type=Path, metavar="DIR")
    run_parser.add_argument("--cpu", choices=sorted(CPUS), required=True)
    run_parser.add_argument("script", metavar="SCRIPT")
    run_parser.add_argument("args", nargs=argparse.REMAINDER, metavar="ARGS")
    options = parser.parse_args()
    directory = options.directory.resolve()
    try:
        if options.command == "setup":
            setup(directory, options.onnxruntime)
        else:
            command, environment = emulated(directory, options.cpu)
            os.execve(command[0], [*command, options.script, *options.args], environment)
    except (Failed, OSError) as error:
        sys.exit(f"arm_sandbox: {error}")
    except KeyboardInterrupt:
        sys.exit("arm_sandbox: interrupted; the same command goes on")


def setup(directory: Path, onnxruntime: str | None) -> None:
    """Make the parts that are not there yet, and the marker at the end."""
    if onnxruntime is None:
        try:
            onnxruntime = importlib.metadata.version("onnxruntime")
        except importlib.metadata.PackageNotFoundError:
            raise Failed("this interpreter has no onnxruntime: say --onnxruntime VERSION") from None
    directory.mkdir(parents=True, exist_ok=True)
    if not find_qemu(directory):
        fetch_qemu(directory)
    qemu = find_qemu(directory)
    print(f"qemu: {qemu}, {call([str(qemu), '--version']).splitlines()[0]}", flush=True)
    root = directory / "root"
    if not root.exists():
        fetch_debian(root)
    python = max(root.glob("usr/bin/python3.*"), key=lambda path: int(path.suffix[1:]))
    print(f"Debian arm64: {root}, {python.name}", flush=True)
    wheels = directory / f"wheels-{onnxruntime}"
    if not wheels.exists():
        fetch_wheels(wheels, onnxruntime, python.name.removeprefix("python"))
    names = sorted(path.stem for path in wheels.glob("*.dist-info"))
    print(f"wheels: {wheels}, {', '.join(names)}", flush=True)
    for cpu in CPUS:
        if not (directory / cpu).exists():
            with building(directory / cpu) as (view, _):
                write_view(view, root, cpu)
    chosen = {"python": python.name, "wheels": wheels.name}
    marker = directory / MARKER
    if marker.exists() and json.loads(marker.read_text()) == chosen:
        print(f"{directory} is ready", flush=True)
        return
    for cpu in CPUS:
        command, environment = emulated(directory, cpu, chosen)
        call([*command, "-c", "import ctypes, numpy"], environment)
        try:  # an onnxruntime that does not run on a CPU is what the sandbox is there to find
            call([*command, "-c", "import onnxruntime"], environment)
            print(f"{cpu}: onnxruntime {onnxruntime} imports", flush=True)
        except Failed as error:
            print(f"{cpu}: {error}", flush=True)
    written = directory / f".part-{MARKER}"
    written.write_text(json.dumps(chosen) + "\n")
    written.replace(marker)


def emulated(
    directory: Path, cpu: str, chosen: dict[str, str] | None = None
) -> tuple[list[str], dict[str, str]]:
    """The command that is the sandbox's Python on `cpu`, and its environment."""
    if chosen is None:
        if not (directory / MARKER).exists():
            raise Failed(f"{directory} is no finished sandbox: run `setup {directory}` first")
        chosen = json.loads((directory / MARKER).read_text())
    root = directory / cpu
    if not (qemu := find_qemu(directory)):
        raise Failed(f"the qemu on PATH is gone: run `setup {directory}` again")
    dropped = ("LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONEXECUTABLE")  # the host's
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    paths = [str(directory / chosen["wheels"]), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONHOME"] = str(root / "usr")
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    environment["PYTHONNOUSERSITE"] = "1"
    python = str(root / "usr/bin" / chosen["python"])
    return [str(qemu), "-cpu", cpu, "-L", str(root), python], environment


def find_qemu(directory: Path) -> Path | None:
    """The qemu that was fetched, or one on PATH."""
    fetched = directory / "qemu" / QEMU
    found = shutil.which(QEMU) or shutil.which("qemu-aarch64")
    return fetched if fetched.exists() else Path(found) if found else None


def fetch_qemu(directory: Path) -> None:
    """Take `qemu-aarch64-static` out of the host's Debian package."""
    print("fetching qemu-user-static", flush=True)
    with building(directory / "qemu") as (result, scratch):
        apt = Apt(scratch, call(["dpkg", "--print-architecture"]).strip())
        programs = scratch / "unpacked/usr/bin"
        for package in ("qemu-user-static", "qemu-user"):  # Debian 13's first leads to the second
            call(apt("apt-get", "download", package), cwd=scratch)
            for deb in scratch.glob(f"{package}_*.deb"):
                call(["dpkg-deb", "-x", str(deb), str(programs.parent.parent)])
            for name in (QEMU, "qemu-aarch64"):
                if (programs / name).is_file():
                    shutil.copy(programs / name, result / QEMU)
                    return
        raise Failed(f"neither qemu-user-static nor qemu-user has {QEMU}")


def fetch_debian(root: Path) -> None:
    """Unpack the release's Python, and the libraries that it and the wheels need, to `root`."""
    print("fetching Debian's arm64 Python", flush=True)
    with building(root) as (result, scratch):
        apt = Apt(scratch, "arm64")
        shown = call(apt("apt-cache", "show", "python3-minimal"))
        if not (match := re.search(r"\bpython3\.\d+(?=-minimal)", shown)):
            raise Failed("Debian's python3-minimal names no python3.x-minimal")
        wanted = [f"{match[0]}-minimal", f"lib{match[0]}-stdlib", "libstdc++6", "libgcc-s1"]
        options = ("--yes", "--download-only", "--no-install-recommends")
        call(apt("apt-get", "install", *options, *wanted, "zlib1g"))
        for deb in sorted((scratch / "cache/archives").glob("*.deb")):
            call(["dpkg-deb", "-x", str(deb), str(result)])
        if not (result / LOADER).exists():  # where /usr is merged, no package holds /lib
            (result / LOADER).parent.mkdir(exist_ok=True)
            (result / LOADER).symlink_to(f"../usr/{LOADER}")


def fetch_wheels(wheels: Path, onnxruntime: str, python: str) -> None:
    """Install the aarch64 wheels for the sandbox's Python to `wheels`."""
    print(f"fetching aarch64 wheels for Python {python}", flush=True)
    tag = python.replace(".", "")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    command += ["--no-deps", "--no-compile", "--only-binary=:all:", "--implementation", "cp"]
    command += ["--python-version", tag, "--abi", f"cp{tag}"]
    command += [part for name in PLATFORMS for part in ("--platform", f"{name}_aarch64")]
    names = [f"onnxruntime=={onnxruntime}", "numpy", "flatbuffers", "packaging"]
    with building(wheels) as (result, _):
        call([*command, "--target", str(result), *names])


def write_view(view: Path, root: Path, cpu: str) -> None:
    """Fill `view` with links to `root` and with the CPU's `proc/cpuinfo`."""
    for path in sorted(root.iterdir()):
        (view / path.name).symlink_to(f"../{root.name}/{path.name}")
    values, features = CPUS[cpu]
    rows = [("BogoMIPS", "108.00"), ("Features", features), *zip(FIELDS, values, strict=True)]
    cores = [[("processor", str(core)), *rows] for core in range(CORES)]
    text = "\n".join("".join(f"{name}\t: {value}\n" for name, value in core) for core in cores)
    (view / "proc").mkdir()
    (view / "proc/cpuinfo").write_text(text)


@contextmanager
def building(final: Path) -> Iterator[tuple[Path, Path]]:
    """An empty folder that becomes `final` if all goes well, and a scratch folder beside it."""
    prefix = f".part-{final.name}-"  # then the process: a killed one's apt may still write to its
    for left in final.parent.glob(f"{prefix}*"):
        shutil.rmtree(left, ignore_errors=True)
    scratch = final.parent / f"{prefix}{os.getpid()}"
    result = scratch / "result"
    result.mkdir(parents=True)
    yield result, scratch
    result.replace(final)
    shutil.rmtree(scratch)


class Apt:
    """apt with the machine's sources and keys, and a state of its own."""

    def __init__(self, scratch: Path, architecture: str) -> None:
        for name in ("state/lists/partial", "cache/archives/partial"):
            (scratch / name).mkdir(parents=True)
        (scratch / "status").touch()
        self.config = scratch / "apt.conf"
        self.config.write_text(
            f'#clear APT::Architectures;\nAPT::Architectures {{ "{architecture}"; }};\n'
            f'APT::Architecture "{architecture}";\nAPT::Sandbox::User "root";\n'
            f'Dir::State "{scratch}/state";\nDir::State::status "{scratch}/status";\n'
            f'Dir::Cache "{scratch}/cache";\n'
        )
        try:
            call(self("apt-get", "update"))
        except Failed as error:  # one broken source of many may be one that is not needed
            print(error, "(going on with what it fetched)", flush=True)

    def __call__(self, program: str, *arguments: str) -> list[str]:
        """The command line of `program`."""
        return [program, f"--config-file={self.config}", *arguments]


def call(
    command: list[str], environment: dict[str, str] | None = None, cwd: Path | None = None
) -> str:
    """What the command prints; `Failed` says in one line what was run and what it said."""
    environment = {**(environment or os.environ), "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env=environment, cwd=cwd
        )
    except OSError as error:
        raise Failed(f"`{shlex.join(command)}` does not start: {error}") from None
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        said = [line for line in lines if re.match(r"(E:|ERROR:)", line)] or lines[-1:]
        ended = f"`{shlex.join(command)}` ended with {done.returncode}"
        raise Failed(f"{ended}: {' '.join(said)[:500] or 'it said nothing'}")
    return done.stdout


if __name__ == "__main__":
    main()
