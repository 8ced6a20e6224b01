"""Settings of a build, validated once."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from typing import Any

from primesvt_deploy.edge.field_types import check_field_types
from primesvt_deploy.errors import SettingsError

__all__ = [
    "DEFAULT_RATES",
    "HEAD",
    "MOST_BATCH",
    "MOST_THREADS",
    "POLICY_NAMES",
    "RECOVERY_STEPS",
    "BudgetOn",
    "BuildSettings",
    "FinetuneSettings",
    "Precision",
    "Runtime",
    "SearchSettings",
]

POLICY_NAMES = ("prioritized", "greedy", "uniform", "global-l2", "random")
"""Names of `pruning.policies`, the default first."""
RECOVERY_STEPS = ("free", "bias", "refit", "norms")
"""Steps of `pruning.recovery` that every candidate is recovered by."""
HEAD = "head"
"""The recovery step that is tried on the final plan alone."""
DEFAULT_RATES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
MOST_BATCH, MOST_THREADS = 65536, 1024
"""Limits of `bench`, too: beyond them the runtimes fail, each in its own way."""
_MB = 1_000_000
_MOST_MULTIPLE = 1024
_MOST_SEED = 2**63 - 1
"""Integers of torch and of files of settings have 64 bits."""


class Precision(StrEnum):
    """Precision of an artifact's weights."""

    FP32 = "fp32"
    INT8 = "int8"
    INT4 = "int4"

    @property
    def bits(self) -> int:
        """Bits a weight."""
        return {"fp32": 32, "int8": 8, "int4": 4}[self.value]


class Runtime(StrEnum):
    """Runtime of the shipped model on the device.

    ONNX: `model.onnx` in ONNX Runtime. NATIVE: `model.svit` in the C engine, for integer weights.
    BOTH: the bundle carries both.
    """

    ONNX = "onnx"
    NATIVE = "native"
    BOTH = "both"

    @property
    def has_onnx(self) -> bool:
        """Whether the bundle carries an ONNX file."""
        return self is not Runtime.NATIVE

    @property
    def has_native(self) -> bool:
        """Whether the bundle carries a file for the native engine."""
        return self is not Runtime.ONNX


class BudgetOn(StrEnum):
    """Quantity that a budget counts.

    FILE: bytes of the model file (of the larger one, where the bundle carries two). PARAMS: bytes
    of its weights and biases alone, the paper's metric. RSS: peak resident memory of a fresh
    process that runs one sample.
    """

    FILE = "file"
    PARAMS = "params"
    RSS = "rss"


class _Brief:
    """Base of settings that show only those that are not the default."""

    def __repr__(self) -> str:
        """The call that makes them."""
        given = [
            f"{field.name}={value!r}"
            for field in fields(self)  # type: ignore[arg-type]
            if (value := getattr(self, field.name)) != field.default
        ]
        return f"{type(self).__name__}({', '.join(given)})"

    def _check_types(self) -> None:
        try:
            check_field_types(self)
        except ValueError as error:
            raise SettingsError(str(error)) from error


def _check_seed(seed: int) -> None:
    if seed > _MOST_SEED:
        raise SettingsError("seed has more than 64 bits: expected 0 to 2^63 - 1; change --seed")


@dataclass(frozen=True, kw_only=True, repr=False)
class SearchSettings(_Brief):
    """How candidates are made and judged.

    Args:
        max_drop: percentage points of top-1 that a plan may lose on the search split; None: any,
            and then the prioritized policy goes by sizes alone and evaluates no candidate.
        rates: pruning rates tried, shares of a layer's channels.
        channel_multiple: channels (per head) are kept in multiples of this.
        search_images: search images a decision rests on; None: all.
        robustness_images: images a point of a robustness curve rests on.
        seed: of the image order, of the split where a data source has none, and of the random
            policy.
        policy: which channels leave (`POLICY_NAMES`).
        recover: gradient-free recovery of every candidate (`RECOVERY_STEPS`); with `HEAD`
            the plan that is decided on gets its classifier refitted, and is shipped so unless it
            loses more on the search images.
        ignore: names of layers, modules or groups, or patterns of them, that keep their channels.

    Raises:
        SettingsError: a value is out of range, or of another type.
    """

    max_drop: float | None = 3.0
    rates: tuple[float, ...] = DEFAULT_RATES
    channel_multiple: int = 1
    search_images: int | None = None
    robustness_images: int = 512
    seed: int = 0
    policy: str = POLICY_NAMES[0]
    recover: tuple[str, ...] = RECOVERY_STEPS
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse values out of range; sort rates and recovery steps."""
        self._check_types()
        if self.policy not in POLICY_NAMES:
            raise SettingsError(
                f"policy is {self.policy!r}: expected one of {', '.join(POLICY_NAMES)}"
            )
        known = (*RECOVERY_STEPS, HEAD)
        unknown = [step for step in self.recover if step not in known]
        if unknown:
            raise SettingsError(
                f"there is no recovery step {unknown[0]!r}: expected some of {', '.join(known)}, "
                "or all (the first four), or none"
            )
        steps = tuple(step for step in known if step in self.recover)
        object.__setattr__(self, "recover", steps)
        if not all(self.ignore):
            raise SettingsError("ignore is empty: expected a layer's name; change --ignore")
        if self.max_drop is not None and not 0.0 <= self.max_drop <= 100.0:
            raise SettingsError(
                f"max drop is {self.max_drop} points: expected 0 to 100, or off; change --max-drop"
            )
        if not self.rates or not all(0.0 < rate < 1.0 for rate in self.rates):
            raise SettingsError(
                f"rates are {list(self.rates)}: expected shares between 0 and 1, at least one"
            )
        object.__setattr__(self, "rates", tuple(sorted(set(self.rates))))
        for name, least in (("channel_multiple", 1), ("robustness_images", 50), ("seed", 0)):
            if getattr(self, name) < least:
                raise SettingsError(
                    f"{name.replace('_', ' ')} is {getattr(self, name)}: expected {least} or more"
                )
        if self.channel_multiple > _MOST_MULTIPLE:
            raise SettingsError(
                f"channel multiple is {self.channel_multiple}: expected 1 to {_MOST_MULTIPLE}, as "
                "a layer of fewer channels is left as it is; change --channel-multiple"
            )
        _check_seed(self.seed)
        if self.search_images is not None and self.search_images < 50:
            raise SettingsError(
                f"search images are {self.search_images}: expected 50 or more, or a decision "
                "rests on nothing; change --search-images"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        lists = {name: list(getattr(self, name)) for name in ("rates", "recover", "ignore")}
        return {**asdict(self), **lists}


@dataclass(frozen=True, kw_only=True, repr=False)
class FinetuneSettings(_Brief):
    """How a pruned model is trained on.

    Args:
        epochs: passes over the train split.
        timesteps: T of each epoch, the last one's for those beyond; empty: the model's own. Fewer
            first is cheaper; the last must be the model's own.
        learning_rate: peak of AdamW's, after a warm-up, falling to 0 as a cosine.
        warmup: share of all steps over which it rises.
        weight_decay: on weights; biases and norms have none.
        batch_size: images a step.
        distillation: weight of the divergence from the dense model's probabilities in the loss;
            the rest is cross-entropy with the labels.
        temperature: of that divergence's probabilities.
        images: train images used, the first in an order fixed by `seed`; None: all.
        seed: of order and augmentation.
        device: `cpu`, `cuda`, or `auto`: CUDA where there is one.

    Raises:
        SettingsError: a value is out of range, or of another type.
    """

    epochs: int = 1
    timesteps: tuple[int, ...] = ()
    learning_rate: float = 3e-4
    warmup: float = 0.05
    weight_decay: float = 0.01
    batch_size: int = 64
    distillation: float = 0.5
    temperature: float = 2.0
    images: int | None = None
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        self._check_types()
        for name, least in (("epochs", 1), ("batch_size", 2), ("seed", 0)):
            if getattr(self, name) < least:
                raise SettingsError(
                    f"fine-tuning {name.replace('_', ' ')} are {getattr(self, name)}: expected "
                    f"{least} or more"
                )
        _check_seed(self.seed)
        for name, low, high in (
            ("learning_rate", 0.0, 1.0),
            ("warmup", 0.0, 1.0),
            ("weight_decay", 0.0, 1.0),
            ("distillation", 0.0, 1.0),
        ):
            if not low <= getattr(self, name) <= high:
                raise SettingsError(
                    f"fine-tuning {name.replace('_', ' ')} is {getattr(self, name)}: expected "
                    f"{low:g} to {high:g}"
                )
        if not 0.0 < self.temperature < math.inf:
            raise SettingsError(f"temperature is {self.temperature}: expected more than 0")
        if any(steps < 1 for steps in self.timesteps):
            raise SettingsError(f"timesteps are {list(self.timesteps)}: expected 1 or more each")
        if self.epochs < len(self.timesteps):
            raise SettingsError(
                f"{len(self.timesteps)} timesteps are given for {self.epochs} epochs: one an "
                "epoch at most"
            )
        if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", self.device):
            raise SettingsError(f"device is {self.device!r:.60}: expected cpu, cuda or auto")
        if self.images is not None and self.images < self.batch_size:
            raise SettingsError(
                f"fine-tuning images are {self.images}: expected a batch of {self.batch_size} at "
                "least"
            )

    def steps_of(self, epoch: int, timesteps: int) -> int:
        """T of an epoch (from 0) of a model of so many timesteps."""
        return self.timesteps[min(epoch, len(self.timesteps) - 1)] if self.timesteps else timesteps

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "timesteps": list(self.timesteps)}


@dataclass(frozen=True, kw_only=True, repr=False)
class BuildSettings(_Brief):
    """Budget, constraint and form of a build.

    Args:
        budget_mb: megabytes (10^6 bytes) that the shipped model may have.
        saving: percent of the dense float32 model that must be saved.
        search: how candidates are made and judged.
        batch: fixed batch size of the artifact, or None for any.
        threads: of torch and ONNX Runtime; 0: their own choice.
        verify_images: images the artifact is verified on, at least.
        precision: of the weights; None: whichever is most accurate within the budget.
        budget_on: what budget and saving count.
        standard_ops: integer arithmetic in standard ONNX operators alone.
        ort_format: write the model in ONNX Runtime's own format, too.
        finetune: how a pruned model is trained on before it is shipped; None: not at all.
        finetune_slack: points that pruning may lose beyond the constraint where fine-tuning
            follows; the shipped artifact has to keep the constraint itself.
        ship_timesteps: T of the shipped model; None: the model's own.
        smallest: no budget: as small as the constraint allows (from known candidates alone).
        runtime: what runs the shipped model on the device.
        mcu: write the native model as C source as well, to compile it into the firmware of a
            microcontroller, and have it work in little memory.
        integer_input: have the first layer take the pixels themselves, with integer weights: no
            image is normalised, and no sum before the classifier's depends on the machine.
        anytime: percentage points of top-1 that the model may lose on the search split by stopping
            early, after fewer timesteps; None: it takes all of them.
        held_out_images: held-out images that accuracy is reported on, the first in an order fixed
            by the search's seed; None: all.

    Raises:
        SettingsError: neither budget nor saving, or a value out of range or of another type.
    """

    budget_mb: float | None = None
    saving: float | None = None
    search: SearchSettings = SearchSettings()
    batch: int | None = None
    threads: int = 0
    verify_images: int = 256
    precision: Precision | None = Precision.FP32
    budget_on: BudgetOn = BudgetOn.FILE
    standard_ops: bool = False
    ort_format: bool = False
    finetune: FinetuneSettings | None = None
    finetune_slack: float = 10.0
    ship_timesteps: int | None = None
    smallest: bool = False
    runtime: Runtime = Runtime.ONNX
    mcu: bool = False
    integer_input: bool = False
    anytime: float | None = None
    held_out_images: int | None = None

    def __post_init__(self) -> None:
        """Refuse values out of range; names of precision and the like may be text."""
        self._check_types()
        for name, kind in (("precision", Precision), ("budget_on", BudgetOn), ("runtime", Runtime)):
            value = getattr(self, name)
            if isinstance(value, str) and not isinstance(value, kind):
                if value not in [each.value for each in kind]:
                    expected = ", ".join(each.value for each in kind)
                    raise SettingsError(f"{name} is {value!r:.60}: expected one of {expected}")
                object.__setattr__(self, name, kind(value))
        self._check_anytime()
        if self.integer_input and self.precision is Precision.FP32:
            raise SettingsError(
                "precision is fp32: an integer first layer has integer weights; pass --precision "
                "int8, int4 or auto, or leave --integer-input out"
            )
        if self.mcu and not self.runtime.has_native:
            raise SettingsError(
                "--mcu writes the native runtime's model as C source: pass --runtime native or both"
            )
        if self.runtime.has_native and self.precision is Precision.FP32:
            raise SettingsError(
                "precision is fp32: the native runtime adds integer weights; pass --precision "
                "int8, int4 or auto, or --runtime onnx"
            )
        if not self.runtime.has_onnx and (self.ort_format or self.standard_ops):
            option = "--ort-format" if self.ort_format else "--standard-ops"
            raise SettingsError(
                f"{option} is about the ONNX file, which --runtime native leaves out: leave it "
                "out, or pass --runtime both"
            )
        if self.budget_mb is None and self.saving is None and not self.smallest:
            raise SettingsError("no target: pass --budget-mb MEGABYTES, --saving PERCENT, or both")
        if self.budget_mb is not None and not (
            math.isfinite(self.budget_mb) and self.budget_mb > 0
        ):
            raise SettingsError(
                f"budget is {self.budget_mb} MB: expected a finite number, more than 0; change "
                "--budget-mb"
            )
        if self.saving is not None and not 0.0 <= self.saving < 100.0:
            raise SettingsError(
                f"saving is {self.saving}%: expected 0 up to, not including, 100; change --saving"
            )
        if self.batch is not None and not 1 <= self.batch <= MOST_BATCH:
            raise SettingsError(f"batch is {self.batch}: expected 1 to {MOST_BATCH}")
        if not 0 <= self.threads <= MOST_THREADS:
            raise SettingsError(
                f"threads are {self.threads}: expected 0 (automatic) to {MOST_THREADS}"
            )
        if self.verify_images < 1:
            raise SettingsError(f"verify images are {self.verify_images}: expected 1 or more")
        if self.held_out_images is not None and self.held_out_images < 1:
            raise SettingsError(
                f"held-out images are {self.held_out_images}: expected 1 or more; change "
                "--held-out-images"
            )
        if not 0.0 <= self.finetune_slack <= 100.0:
            raise SettingsError(
                f"fine-tuning slack is {self.finetune_slack} points: expected 0 to 100"
            )
        if self.ship_timesteps is not None and self.ship_timesteps < 1:
            raise SettingsError(f"ship timesteps are {self.ship_timesteps}: expected 1 or more")

    def _check_anytime(self) -> None:
        if self.anytime is None:
            return
        if self.precision is Precision.FP32:
            raise SettingsError(
                "precision is fp32: stages that stop early share integer weights; pass --precision "
                "int8, int4 or auto, or leave --anytime out"
            )
        if not 0.0 <= self.anytime <= 100.0:
            raise SettingsError(
                f"anytime is {self.anytime} points: expected 0 to 100; change --anytime"
            )
        if self.ship_timesteps == 1:
            raise SettingsError(
                "ship timesteps are 1: nothing can stop earlier; leave --anytime out, or pass a "
                "larger --ship-timesteps"
            )

    @property
    def pruning(self) -> SearchSettings:
        """How the policy searches: with slack where fine-tuning follows."""
        if self.finetune is None or self.search.max_drop is None:
            return self.search
        return replace(self.search, max_drop=min(self.search.max_drop + self.finetune_slack, 100.0))

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Precisions to try, in order."""
        if self.precision is not None:
            return (self.precision,)
        integers = self.runtime.has_native or self.integer_input or self.anytime is not None
        return (Precision.INT8, Precision.INT4) if integers else tuple(Precision)

    def budget_bytes(self, dense_bytes: int) -> int:
        """The stricter of both targets, in bytes of what the budget counts.

        Args:
            dense_bytes: of the dense float32 model.
        """
        targets = []
        if self.budget_mb is not None:
            targets.append(self.budget_mb * _MB)
        if self.saving is not None:
            targets.append(dense_bytes * (100.0 - self.saving) / 100.0)
        if not targets:
            return 0  # `smallest`: no plan is small enough
        # Rounded first: 1.001 * 10^6 is 1000999.9999999999 in binary and means 1001000.
        return math.floor(round(min(targets), 3))
