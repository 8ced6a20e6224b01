"""How candidates are made and judged."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from primesvt_deploy.errors import SettingsError
from primesvt_deploy.settings.base import Brief, check_seed

__all__ = [
    "DEFAULT_RATES",
    "EVALUATION_PRECISIONS",
    "HEAD",
    "POLICY_NAMES",
    "RECOVERY_STEPS",
    "SearchSettings",
]

POLICY_NAMES = ("prioritized", "greedy", "uniform", "global-l2", "random")
"""Names of `pruning.policies`, the default first."""
RECOVERY_STEPS = ("free", "bias", "refit", "norms")
"""Steps of `pruning.recovery` that every candidate is recovered by."""
HEAD = "head"
"""The recovery step that is tried on the final plan alone."""
EVALUATION_PRECISIONS = ("fp32", "bf16")
DEFAULT_RATES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_MOST_MULTIPLE = 1024


@dataclass(frozen=True, kw_only=True, repr=False)
class SearchSettings(Brief):
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
        evaluation_precision: of the networks that candidates are judged by, `fp32` (without TF32,
            so that spikes agree) or `bf16`; recovery and calibration are float32 and float64.

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
    evaluation_precision: str = EVALUATION_PRECISIONS[0]

    def __post_init__(self) -> None:
        """Refuse values out of range; sort rates and recovery steps."""
        self.check_types()
        if self.policy not in POLICY_NAMES:
            raise SettingsError(
                f"policy is {self.policy!r}: expected one of {', '.join(POLICY_NAMES)}"
            )
        if self.evaluation_precision not in EVALUATION_PRECISIONS:
            raise SettingsError(
                f"evaluation precision is {self.evaluation_precision!r:.60}: expected one of "
                f"{', '.join(EVALUATION_PRECISIONS)}"
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
        check_seed(self.seed)
        if self.search_images is not None and self.search_images < 50:
            raise SettingsError(
                f"search images are {self.search_images}: expected 50 or more, or a decision "
                "rests on nothing; change --search-images"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        lists = {name: list(getattr(self, name)) for name in ("rates", "recover", "ignore")}
        return {**asdict(self), **lists}
