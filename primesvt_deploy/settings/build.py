"""Budget, constraint and form of a build."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from primesvt_deploy.errors import SettingsError
from primesvt_deploy.settings.base import Brief
from primesvt_deploy.settings.compute import ComputeSettings
from primesvt_deploy.settings.finetune import FinetuneSettings
from primesvt_deploy.settings.kinds import BudgetOn, Precision, Runtime
from primesvt_deploy.settings.limits import MOST_BATCH, MOST_THREADS
from primesvt_deploy.settings.search import SearchSettings

__all__ = ["BuildSettings"]

_MB = 1_000_000


@dataclass(frozen=True, kw_only=True, repr=False)
class BuildSettings(Brief):
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
        compute: where candidates are evaluated and models recovered, calibrated and trained.

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
    compute: ComputeSettings = ComputeSettings()

    def __post_init__(self) -> None:
        """Refuse values out of range; names of precision and the like may be text."""
        self.check_types()
        for name, kind in (("precision", Precision), ("budget_on", BudgetOn), ("runtime", Runtime)):
            value = getattr(self, name)
            if isinstance(value, str) and not isinstance(value, kind):
                if value not in [each.value for each in kind]:
                    expected = ", ".join(each.value for each in kind)
                    raise SettingsError(f"{name} is {value!r:.60}: expected one of {expected}")
                object.__setattr__(self, name, kind(value))
        self._check_anytime()
        self.compute.check_images(self.search.search_images)
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
