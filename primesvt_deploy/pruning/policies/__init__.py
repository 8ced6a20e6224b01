"""Pruning policies by name: which channels leave, so that a model fits a budget."""

from primesvt_deploy.pruning.policies.base import Policy, PolicyOutcome, Search
from primesvt_deploy.pruning.policies.global_l2 import GlobalL2
from primesvt_deploy.pruning.policies.greedy import Greedy
from primesvt_deploy.pruning.policies.prioritized import Prioritized
from primesvt_deploy.pruning.policies.uniform import Random, Uniform

__all__ = ["POLICIES", "Policy", "PolicyOutcome", "Search"]

POLICIES: dict[str, Policy] = {
    policy.name: policy for policy in (Prioritized(), Greedy(), Uniform(), GlobalL2(), Random())
}
"""The paper's first; see each for its source."""
