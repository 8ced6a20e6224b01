"""Whole files to start from: a signed bundle of a small model, checkpoints, images, JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from PIL import Image
from safetensors.torch import save
from small_models import SHALLOW, make_model, write_arrays

from primesvt_deploy import BuildSettings, SearchSettings, build, open_data
from primesvt_deploy.bundle.signature import load_signing_key
from primesvt_deploy.edge.bench.results import SCHEMA
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.frontier import frontier

__all__ = [
    "array_files",
    "frontier_files",
    "image_files",
    "ledger_file",
    "small_bundle",
    "small_model",
    "stored_state",
    "whole_results",
]

_SEARCH = SearchSettings(rates=(0.5,), robustness_images=50, search_images=50)
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM")


@cache
def small_model() -> SViT:
    """A SViT of one block, with random weights."""
    return make_model(SHALLOW)


def small_bundle(directory: Path) -> tuple[Path, Path]:
    """Build and sign a pruned bundle; its path, and that of the public key."""
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = (directory.with_name(name) for name in ("key.pem", "key.pub"))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    model = small_model()
    data = open_data(model, write_arrays(directory.with_name("built-on.npz"), model))
    wanted = BuildSettings(saving=5.0, search=_SEARCH, verify_images=20)
    built = build(model, directory, wanted, data=data, sign=load_signing_key(private))
    return built.path, public


def stored_state(state: Mapping[str, torch.Tensor], kind: str) -> bytes:
    """A state_dict as `torch.save` (`zip`, `legacy`) or safetensors write it, with arguments."""
    if kind == "safetensors":
        return save(dict(state), {"family": "spikformer"})
    file = io.BytesIO()
    content = {"model": dict(state), "epoch": 3, "args": {"T": 3, "lr": 0.1}, "best_acc": 70.0}
    torch.save(content, file, _use_new_zipfile_serialization=kind == "zip")
    return file.getvalue()


def image_files() -> tuple[bytes, ...]:
    """One image in each format that is read, and a few of other modes."""
    generator = np.random.default_rng(0)
    pixels = Image.fromarray(generator.integers(0, 256, (20, 24, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    images = [(pixels, format_) for format_ in _FORMATS]
    images += [(pixels.convert(mode), "PNG") for mode in ("L", "P", "RGBA", "1")]
    found = []
    for image, format_ in images:
        file = io.BytesIO()
        image.save(file, format_, **({"exif": exif} if format_ in ("JPEG", "WEBP") else {}))
        found.append(file.getvalue())
    file = io.BytesIO()
    pixels.save(file, "TIFF", compression="tiff_lzw")
    return (*found, file.getvalue())


def array_files() -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """Event frames `[3, 2, 8, 8]` as `.npy` and `.npz`, and a data set for `small_model`."""
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 4, (3, 2, 8, 8)).astype(np.float32)
    plain, packed, data = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(plain, frames)
    np.savez_compressed(packed, frames=frames, other=frames)
    images = generator.integers(0, 256, (100, 16, 16, 3), dtype=np.uint8)
    np.savez_compressed(data, images=images, labels=np.arange(100) % 5)
    return (plain.getvalue(), packed.getvalue()), (data.getvalue(),)


def whole_results() -> bytes:
    """A result of `bench` of one bundle in two configurations."""
    memory = {"VmHWM": 40_000_000, "VmRSS": 39_000_000, "RssAnon": 20_000_000}
    stages = ("start", "imported", "session", "first run", "steady")
    variants = [
        {
            "name": f"bundle, latency, batch {batch}, 1 thread",
            "bundle": "bundle",
            "runtime": "onnx",
            "profile": "latency",
            "batch": batch,
            "threads": 1,
            "rounds_ms": [[1.0 + 0.01 * i, 1.1, 1.2 + 0.02 * i] for i in range(6)],
            "latency_ms": {"min": 1.0, "median": 1.1, "p95": 1.3, "p99": None},
            "samples_per_second": 900.0,
            "memory": {stage: dict(memory) for stage in stages},
        }
        for batch in (1, 4)
    ]
    machine = {
        "cpu": "AMD EPYC",
        "cpu_part": None,
        "board": None,
        "architecture": "x86_64",
        "physical_cores": 2,
        "features": ["avx2"],
        "python": "3.11.7",
        "numpy": "2.0.0",
        "onnxruntime": "1.20.0",
        "c_compiler": "cc 12",
    }
    content = {
        "schema": SCHEMA,
        "machine": machine,
        "bundles": [{"label": "bundle"}],
        "variants": variants,
        "comparisons": [],
        "notes": [],
    }
    return json.dumps(content).encode()


def ledger_file() -> bytes:
    """A ledger of five candidates."""
    lines = [
        {
            "plan": f"{number:016x}",
            "limit": 40,
            "step": "dense" if not number else "prioritized",
            "correct": 30 - number,
            "lost": number,
            "gained": 0,
            "n": 40,
            "seconds": 0.1,
            "divergence": 0.02,
            "channels": {} if not number else {"blocks.0.mlp": "fffe"},
            "flags": "ff" * 5 if not number else "",
        }
        for number in range(5)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def frontier_files(directory: Path) -> bytes:
    """Make a frontier of `small_model` in a directory; its `frontier.json`."""
    model = small_model()
    data = open_data(model, write_arrays(directory.with_name("searched-on.npz"), model))
    frontier(model, directory, _SEARCH, data=data)
    return (directory / "frontier.json").read_bytes()
