"""Settings of a build, validated once."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from primesvt_deploy.errors import SettingsError

__all__ = ["DEFAULT_RATES", "BudgetOn", "BuildSettings", "Precision", "SearchSettings"]

DEFAULT_RATES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_MB = 1_000_000


class Precision(StrEnum):
    """Of an artifact's weights."""

    FP32 = "fp32"
    INT8 = "int8"
    INT4 = "int4"

    @property
    def bits(self) -> int:
        """Bits a weight."""
        return {"fp32": 32, "int8": 8, "int4": 4}[self.value]


class BudgetOn(StrEnum):
    """What a budget counts.

    FILE: bytes of the model file. PARAMS: bytes of its weights and biases alone, the paper's
    metric. RSS: peak resident memory of a fresh process that runs one sample.
    """

    FILE = "file"
    PARAMS = "params"
    RSS = "rss"


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """How candidates are made and judged.

    Args:
        max_drop: percentage points of top-1 that a plan may lose on the search split; None: any,
            and then no candidate is evaluated.
        rates: pruning rates tried, shares of a layer's channels.
        channel_multiple: channels (per head) are kept in multiples of this.
        search_images: search images a decision rests on; None: all.
        robustness_images: images a point of a robustness curve rests on.
        seed: of the image order, and of the split where a data source has none.

    Raises:
        SettingsError: a value is out of range.
    """

    max_drop: float | None = 3.0
    rates: tuple[float, ...] = DEFAULT_RATES
    channel_multiple: int = 1
    search_images: int | None = None
    robustness_images: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values out of range; sort the rates."""
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
        if self.search_images is not None and self.search_images < 50:
            raise SettingsError(
                f"search images are {self.search_images}: expected 50 or more, or a decision "
                "rests on nothing; change --search-images"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "rates": list(self.rates)}


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """What a build is asked for.

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

    Raises:
        SettingsError: neither budget nor saving, or a value out of range.
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

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if self.budget_mb is None and self.saving is None:
            raise SettingsError("no target: pass --budget-mb MEGABYTES, --saving PERCENT, or both")
        if self.budget_mb is not None and not (
            math.isfinite(self.budget_mb) and self.budget_mb > 0
        ):
            raise SettingsError(
                f"budget is {self.budget_mb} MB: expected more than 0; change --budget-mb"
            )
        if self.saving is not None and not 0.0 <= self.saving < 100.0:
            raise SettingsError(
                f"saving is {self.saving}%: expected 0 up to, not including, 100; change --saving"
            )
        if self.batch is not None and self.batch < 1:
            raise SettingsError(f"batch is {self.batch}: expected 1 or more")
        if self.threads < 0:
            raise SettingsError(f"threads are {self.threads}: expected 0 (automatic) or more")
        if self.verify_images < 1:
            raise SettingsError(f"verify images are {self.verify_images}: expected 1 or more")

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Those to try."""
        return tuple(Precision) if self.precision is None else (self.precision,)

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
        # Rounded first: 1.001 * 10^6 is 1000999.9999999999 in binary and means 1001000.
        return math.floor(round(min(targets), 3))
