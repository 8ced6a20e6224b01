"""A small SViT with live spikes, and data for it, that tests share."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar
from unittest import mock

import numpy as np
import pytest
import torch
from kept_files import kept_directory
from torch import nn
from trace_cache import cached_traces

from primesvt_deploy.artifact.onnx_export import Artifact, export_onnx
from primesvt_deploy.artifact.ort_export import write_ort_file
from primesvt_deploy.data import DataSet, open_data
from primesvt_deploy.edge.runtime.frames import FrameSteps
from primesvt_deploy.edge.runtime.preprocess import Preprocessing
from primesvt_deploy.families import Family
from primesvt_deploy.families.config import NetworkConfig
from primesvt_deploy.families.spikformer import SpikformerConfig
from primesvt_deploy.families.spikformer_checkpoint import SPIKFORMER
from primesvt_deploy.model.svit import SViT

# Many tiny operators: more threads only wait for one another.
torch.set_num_threads(1)

TINY = SpikformerConfig(
    timesteps=3,
    image_size=16,
    in_channels=3,
    num_classes=5,
    num_heads=2,
    embed_dim=16,
    depth=2,
    pooling="0011",
    mlp_ratio=1.5,
)
SHALLOW = replace(TINY, depth=1)
"""For tests of whole jobs, to which a second block is nothing new."""
_Module = TypeVar("_Module", bound=nn.Module)
LABELS = ("ant", "bee", "cat", "dog", "elk")


def enliven(module: _Module, seed: int = 0) -> _Module:
    """Random weights and batch norm statistics under which every layer spikes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                shape = layer.weight.shape
                layer.weight.copy_(0.8 + 1.2 * torch.rand(shape, generator=generator))
                layer.bias.copy_(0.6 + 0.6 * torch.rand(shape, generator=generator))
                if layer.running_mean is None:
                    continue
                layer.running_mean.copy_(0.2 * torch.randn(shape, generator=generator))
                layer.running_var.copy_(0.5 + torch.rand(shape, generator=generator))
            elif isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear):
                fan_in = layer.weight[0].numel()
                noise = torch.randn(layer.weight.shape, generator=generator)
                layer.weight.copy_(noise * (2.0 / fan_in) ** 0.5)
                if layer.bias is not None:
                    layer.bias.zero_()
    return module.eval()


def make_model(config: NetworkConfig = TINY, seed: int = 0, *, family: Family = SPIKFORMER) -> SViT:
    """A SViT of the given configuration with random, live weights."""
    size = config.image_size
    module = enliven(family.build(config), seed)
    with torch.no_grad():
        # Centred logits, so that random images fall into every class.
        steps = (config.timesteps,) if config.frames else ()
        shape = (*steps, 64, *config.input_shape)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        for name in module.classifiers:
            head = module.get_submodule(name)
            if head.bias is not None:
                head.bias.sub_(module(noise).mean(dim=0))
    return SViT(
        name="tiny",
        family=family,
        config=config,
        module=module,
        preprocessing=FrameSteps(config.timesteps, config.in_channels, size, size)
        if config.frames
        else Preprocessing(
            height=size,
            width=size,
            resize=size,
            interpolation="bilinear",
            mean=(0.5,) * config.in_channels,
            std=(0.25,) * config.in_channels,
        ),
        labels=LABELS[: config.num_classes],
    )


def make_prunable(config: SpikformerConfig = TINY) -> SViT:
    """A model whose MLPs are mostly idle: three quarters of their channels never spike."""
    model = make_model(replace(config, mlp_ratio=6.0))
    with torch.no_grad():
        for i in range(config.depth):
            idle = torch.arange(96) % 4 != 0
            model.module.get_parameter(f"blocks.{i}.mlp.fc1.conv.weight")[idle] *= 0.01
            model.module.get_parameter(f"blocks.{i}.mlp.fc1.bn.bias")[idle] = -3.0
    return model


@pytest.fixture(scope="module")
def model() -> SViT:
    """That model; tests of a module share it and leave it as it is."""
    return make_prunable()


@pytest.fixture(scope="module")
def data(model: SViT, tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """Images that it classifies, most of them rightly."""
    return open_data(model, write_arrays(tmp_path_factory.mktemp("data") / "d.npz", model))


@pytest.fixture(scope="session", autouse=True)
def _traces_shared(request: pytest.FixtureRequest) -> Iterator[None]:
    """See `trace_cache`; both workers of a run share one directory."""
    with cached_traces(kept_directory(request, "traces")):
        yield


@pytest.fixture(autouse=True)
def _one_thread_again() -> Iterator[None]:
    """What a test sets holds for its process: all tests behind it would wait for one another."""
    yield
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture
def tiny() -> SViT:
    return make_model()


@pytest.fixture(scope="session")
def tiny_artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """`tiny`, exported once; tests leave it as it is."""
    artifact = export_onnx(make_model(), tmp_path_factory.mktemp("tiny") / "model.onnx")
    write_ort_file(artifact.path, artifact.path.with_name("model.ort"))
    return artifact


@pytest.fixture
def tiny_files(tiny_artifact: Artifact, tmp_path: Path) -> Path:
    """A directory with that model in both formats, for a test to do with as it likes."""
    for name in ("model.onnx", "model.ort"):
        shutil.copy(tiny_artifact.path.with_name(name), tmp_path / name)
    return tmp_path


def write_arrays(path: Path, model: SViT, count: int = 240, seed: int = 1) -> Path:
    """An `.npz` of random images, labelled as `model` classifies most of them."""
    generator = np.random.default_rng(seed)
    height, width = model.preprocessing.height, model.preprocessing.width
    shape = (count, height // 4, width // 4, model.config.in_channels)
    coarse = generator.integers(0, 256, shape, dtype=np.uint8)
    images = np.ascontiguousarray(coarse.repeat(4, axis=1).repeat(4, axis=2))
    logits = model.logits(torch.from_numpy(model.preprocessing.apply_batch(images)))
    labels = logits.argmax(dim=1).numpy().astype(np.int64)
    wrong = generator.random(count) < 0.2
    labels[wrong] = generator.integers(0, len(model.labels), int(wrong.sum()))
    np.savez(path, images=images, labels=labels)
    return path


@pytest.fixture
def tiny_arrays(tiny: SViT, tmp_path: Path) -> Path:
    return write_arrays(tmp_path / "data.npz", tiny)


@pytest.fixture
def tiny_data(tiny: SViT, tiny_arrays: Path) -> DataSet:
    return open_data(tiny, tiny_arrays)


def write_model_directory(directory: Path, model: SViT) -> Path:
    """A directory that `load` reads: model.toml and weights.safetensors."""
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    save_file(dict(model.module.state_dict()), directory / "weights.safetensors")
    arguments = "\n".join(f"{k} = {_toml(v)}" for k, v in model.config.to_dict().items())
    steps = "\n".join(f"{k} = {_toml(v)}" for k, v in model.preprocessing.to_dict().items())
    (directory / "model.toml").write_text(
        f'name = "{model.name}"\nfamily = "{model.family.name}"\n'
        f'weights = "weights.safetensors"\nlabels = {_toml(model.labels)}\n'
        f"[arguments]\n{arguments}\n[preprocessing]\n{steps}\n"
    )
    return directory


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(v) for v in value)}]"
    return str(value)


@pytest.fixture
def tiny_directory(tiny: SViT, tmp_path: Path) -> Path:
    return write_model_directory(tmp_path / "tiny", tiny)


def with_config(model: SViT, **changes: object) -> SViT:
    """A live model of the same configuration but for `changes`."""
    return make_model(replace(model.config, **changes))  # type: ignore[type-var]


Ended = subprocess.CompletedProcess[str]
TERMINAL = {"COLUMNS": "80"}


def primesvt(*arguments: str | Path, cwd: Path) -> Ended:
    """A command in this process, which has torch at hand: its argv, streams and exit code."""
    command = ["primesvt-deploy", *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    from primesvt_deploy.cli import exit_code

    with (
        contextlib.chdir(cwd),
        mock.patch.object(sys, "argv", command),
        mock.patch.dict(os.environ, TERMINAL),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = exit_code()
    return Ended(command, code, out.getvalue(), err.getvalue())
