"""Settings, validated once."""

from primesvt_deploy.settings.build import BuildSettings
from primesvt_deploy.settings.compute import ComputeSettings
from primesvt_deploy.settings.finetune import FinetuneSettings
from primesvt_deploy.settings.kinds import BudgetOn, Precision, Runtime
from primesvt_deploy.settings.limits import MOST_BATCH, MOST_THREADS
from primesvt_deploy.settings.search import (
    DEFAULT_RATES,
    EVALUATION_PRECISIONS,
    HEAD,
    POLICY_NAMES,
    RECOVERY_STEPS,
    SearchSettings,
)

__all__ = [
    "DEFAULT_RATES",
    "EVALUATION_PRECISIONS",
    "HEAD",
    "MOST_BATCH",
    "MOST_THREADS",
    "POLICY_NAMES",
    "RECOVERY_STEPS",
    "BudgetOn",
    "BuildSettings",
    "ComputeSettings",
    "FinetuneSettings",
    "Precision",
    "Runtime",
    "SearchSettings",
]
