"""Recipes: a network and its training, one TOML file each in `tools/recipes/`.

`[model]` has the fields of `models/NAME/model.toml`: name, family, labels, `[model.arguments]`;
and `initial`, where training starts from an existing model. `[training]` has the fields of
`Training`.
"""

from __future__ import annotations

import math
import re
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from primesvt_deploy.errors import ModelError, SettingsError
from primesvt_deploy.families import family_named
from primesvt_deploy.model.labels import checked_labels
from primesvt_deploy.model.preprocessing import InputOptions, input_steps
from primesvt_deploy.model.svit import SViT

__all__ = ["AUGMENTATIONS", "Phase", "Recipe", "Training"]

_MANY = 2**63
"""Upper limit of a recipe's settings, seeds among them."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_RESERVED = {"data"}
"""Folders in `models/` that are no models."""
_MODEL = {"name": str, "family": str, "arguments": dict}
_MODEL_OPTIONS = {"labels": list, "data": str, "initial": str}
_WORDS = {str: "a text", list: "a list", dict: "a table"}
AUGMENTATIONS = ("none", "randaugment", "trivialaugment", "autoaugment")


@dataclass(frozen=True)
class Phase:
    """Some epochs at one number of timesteps."""

    timesteps: int
    epochs: int


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings of a training.

    Args:
        phases: pairs of timesteps and epochs, in order; T = 1 first is far cheaper.
        batch_size: images in a step, over all devices.
        learning_rate: peak learning rate of AdamW, after the warm-up.
        final_learning_rate: learning rate at the end of the cosine.
        warmup_epochs: epochs over which the learning rate rises.
        weight_decay: weight decay of weights; biases and norms have none.
        label_smoothing: share of a label that is spread over all classes.
        augmentation: augmentation after the random crop and flip: `randaugment`,
            `trivialaugment`, `autoaugment` (torchvision's) or `none`.
        mixup: alpha of mixup (Zhang et al., 2018); 0: none.
        cutmix: alpha of CutMix (Yun et al., 2019); 0: none.
        mixing: share of the batches to which mixup or CutMix is applied, one of them at random.
        erasing: share of the images of which a rectangle is erased.
        plain_epochs: last epochs without mixing.
        averaging: decay of the moving average of weights at each step; 0: none.
        seed: seed of weights, order, augmentation and mixing.

    Raises:
        SettingsError: a value is out of range.
    """

    phases: tuple[Phase, ...]
    batch_size: int = 128
    learning_rate: float = 5e-4
    final_learning_rate: float = 1e-6
    warmup_epochs: float = 1.0
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    augmentation: str = "randaugment"
    mixup: float = 0.0
    cutmix: float = 0.0
    mixing: float = 1.0
    erasing: float = 0.0
    plain_epochs: int = 0
    averaging: float = 0.9995
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if not self.phases or any(p.timesteps < 1 or p.epochs < 1 for p in self.phases):
            raise SettingsError(
                "phases are pairs of timesteps and epochs, each 1 or more: such as "
                "phases = [[1, 100], [4, 20]]"
            )
        if self.batch_size < 2:
            raise SettingsError(f"batch_size is {self.batch_size}: expected 2 or more")
        if self.augmentation not in AUGMENTATIONS:
            raise SettingsError(
                f"augmentation is {self.augmentation!r}: expected one of {', '.join(AUGMENTATIONS)}"
            )
        for name in ("label_smoothing", "mixing", "erasing", "averaging"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise SettingsError(f"{name} is {getattr(self, name)}: expected 0 to 1")
        for name in ("warmup_epochs", "weight_decay", "mixup", "cutmix", "plain_epochs", "seed"):
            if not 0 <= getattr(self, name) < _MANY:
                raise SettingsError(f"{name} is {getattr(self, name)}: expected 0 or more")
        if not 0.0 <= self.final_learning_rate <= self.learning_rate < math.inf or not (
            self.learning_rate
        ):
            raise SettingsError("expected 0 <= final_learning_rate <= learning_rate, and not 0")

    @property
    def epochs(self) -> int:
        """Epochs of all phases."""
        return sum(phase.epochs for phase in self.phases)

    def timesteps(self, epoch: int) -> int:
        """T of an epoch, from 0."""
        for phase in self.phases:
            if epoch < phase.epochs:
                return phase.timesteps
            epoch -= phase.epochs
        return self.phases[-1].timesteps


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A network and its training.

    Args:
        model: table `[model]` of the file.
        training: table `[training]` of the file.
    """

    model: dict[str, Any]
    training: Training

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Read the recipe in a file.

        Raises:
            SettingsError: there is no such file, it is not TOML, or something in it is unknown or
                out of range.
        """
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise SettingsError(f"no recipe file at {path}: see tools/recipes/") from error
        except ValueError as error:
            raise SettingsError(f"{path} is no recipe ({error}): see tools/recipes/") from error
        try:
            _require_tables(content)
            _require_model(content["model"])
            values = dict(content["training"])
            _require_kinds(values)
            phases = tuple(Phase(*pair) for pair in values.pop("phases", ()))
            return cls(model=content["model"], training=Training(phases=phases, **values))
        except SettingsError as error:
            raise SettingsError(f"{path}: {error}") from error

    def build_model(self, *, initial: bool = True) -> SViT:
        """Build the SViT, with random weights or the initial ones that the recipe names.

        Args:
            initial: whether to load initial weights, if the recipe names any.

        Raises:
            ModelError, SettingsError: it cannot be built, or trained on images at these
                timesteps.
        """
        kind, name = family_named(self.model["family"]), self.model["name"]
        config = kind.config_from_dict(self.model["arguments"])
        if config.frames:
            raise SettingsError(f"{name} takes event frames: only images are trained on")
        model = SViT(
            name=name,
            family=kind,
            config=config,
            module=kind.build(config),
            preprocessing=input_steps(kind.inputs, config, InputOptions()),
            labels=checked_labels(self.model.get("labels"), config.num_classes, Path(name)),
            data=self.model.get("data"),
        )
        for phase in self.training.phases:
            model.at_timesteps(phase.timesteps)
        if self.training.phases[-1].timesteps != model.timesteps:
            raise SettingsError(f"the last phase must have the model's T = {model.timesteps}")
        if initial and "initial" in self.model:
            _take_weights(model, self.model["initial"])
        return model


def _take_weights(model: SViT, source: str) -> None:
    from primesvt_deploy.model.load import load  # reads safetensors, which fresh weights need not

    found = load(source)
    try:
        model.module.load_state_dict(found.module.state_dict())
    except RuntimeError as error:
        first = str(error).strip().splitlines()[-1].strip()
        raise ModelError(f"{source} is no such network as the recipe's ({first})") from error
    if found.labels != model.labels:
        raise ModelError(f"{source} has other labels than the recipe, or in another order")


def _require_tables(content: dict[str, Any]) -> None:
    for name in ("model", "training"):
        if not isinstance(content.get(name), dict):
            raise SettingsError(f"no recipe: it has no table [{name}]: see tools/recipes/")
    unknown = sorted(content.keys() - {"model", "training"})
    if unknown:
        raise SettingsError(f"unknown {unknown[0]!r}: expected [model] and [training] alone")


def _require_model(model: dict[str, Any]) -> None:
    kinds = _MODEL | _MODEL_OPTIONS
    unknown = sorted(model.keys() - kinds.keys())
    if unknown:
        raise SettingsError(f"unknown {unknown[0]!r} in [model]: expected some of {sorted(kinds)}")
    missing = sorted(_MODEL.keys() - model.keys())
    if missing:
        raise SettingsError(f"[model] has no {missing[0]!r}: add it")
    for name, value in model.items():
        if not isinstance(value, kinds[name]):
            raise SettingsError(f"{name} in [model] is {value!r}: expected {_WORDS[kinds[name]]}")
    if not all(isinstance(label, str) for label in model.get("labels", ())):
        raise SettingsError("labels in [model] are not all texts: expected names of classes")
    if not _NAME.fullmatch(model["name"]) or model["name"] in _RESERVED:
        raise SettingsError(
            f"name in [model] is {model['name']!r}: expected a directory's name, of letters, "
            "digits, '.', '_' and '-'"
        )


def _require_kinds(values: dict[str, Any]) -> None:
    kinds = {field.name: str(field.type) for field in fields(Training)}
    unknown = sorted(values.keys() - kinds.keys())
    if unknown:
        raise SettingsError(f"unknown {unknown[0]!r}: expected some of {sorted(kinds)}")
    for name, value in values.items():
        number = isinstance(value, int) and not isinstance(value, bool)
        if name == "phases":
            if not isinstance(value, list) or not all(map(_is_phase, value)):
                raise SettingsError(f"phases are pairs of timesteps and epochs, not {value!r}")
        elif kinds[name] == "int" and not number:
            raise SettingsError(f"{name} is {value!r}: expected a whole number")
        elif kinds[name] == "float" and not number and not isinstance(value, float):
            raise SettingsError(f"{name} is {value!r}: expected a number")


def _is_phase(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(v) is int for v in value)
