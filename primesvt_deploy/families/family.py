"""A family of SViTs: its network, and how its checkpoints are recognised and converted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import torch

from primesvt_deploy.errors import ModelError
from primesvt_deploy.families.checkpoint_keys import State
from primesvt_deploy.families.config import NetworkConfig
from primesvt_deploy.families.input_defaults import InputDefaults
from primesvt_deploy.families.network import SpikingNetwork
from primesvt_deploy.families.options import ModelOptions
from primesvt_deploy.families.stored_arguments import Contradiction, StoredArgument, contradictions

__all__ = ["Family"]


@dataclass(frozen=True, kw_only=True, repr=False)
class Family:
    """A family of SViTs: networks of one architecture, and the checkpoints that fit them.

    Args:
        name: value of `--family`.
        title: name and source, for people.
        config_type: class of its configurations.
        network: makes its network for a configuration, with fresh weights.
        recognises: whether a state_dict with these keys looks like this family's.
        claims: whether stored training arguments are of this family's training script. They
            choose among families with the same keys.
        claimed_only: it is recognised by a claim alone, as most files with its keys are another's.
        arguments: stored training arguments that change the forward pass, and the values that this
            family covers, beside those of every family.
        stored_options: options that stored training arguments give, besides those that are called
            alike in every family.
        convert: makes the configuration and the state_dict of our network from an upstream
            state_dict and the options that weights do not determine; raises ModelError. Layers
            that no rule renames keep their names, for the loader to list as unexpected. Widths and
            biases follow the state_dict, see `fit_widths`.
        options: names of the `ModelOptions` that `convert` uses.
        superseded: options that are not used where another is given, by the other's name.
        flags: options to pass for a checkpoint, as shown to the user; bracketed where only some
            checkpoints need them.
        inputs: evaluation preprocessing of the published models.
        note: warning to the user of this family, shown in reports; empty for most.
    """

    name: str
    title: str
    config_type: type[NetworkConfig]
    network: Callable[[Any], SpikingNetwork]
    recognises: Callable[[Set[str]], bool]
    claims: Callable[[Mapping[str, Any]], bool] = lambda _: False
    claimed_only: bool = False
    arguments: tuple[StoredArgument, ...] = ()
    stored_options: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda _: {}
    convert: Callable[[State, ModelOptions], tuple[NetworkConfig, dict[str, torch.Tensor]]]
    options: frozenset[str]
    superseded: Mapping[str, str] = field(default_factory=dict, hash=False)
    flags: str
    inputs: InputDefaults = field(default_factory=InputDefaults)
    note: str = ""

    def __repr__(self) -> str:
        """Its name and its title."""
        return f"Family({self.name}: {self.title})"

    def build(self, config: NetworkConfig) -> SpikingNetwork:
        """A network with fresh weights, in evaluation mode.

        Raises:
            ModelError: the configuration is another family's.
        """
        if not isinstance(config, self.config_type):
            raise ModelError(
                f"expected a {self.config_type.__name__}, found {type(config).__name__}"
            )
        return self.network(config).eval()

    def config_from_dict(self, values: Mapping[str, Any]) -> NetworkConfig:
        """The inverse of `NetworkConfig.to_dict`.

        Raises:
            ModelError: an argument is unknown, missing, or of the wrong type or range.
        """
        try:
            return self.config_type.from_dict(values)
        except ModelError as error:
            raise ModelError(f"{self.name}: {error}") from error

    def contradiction(
        self, arguments: Mapping[str, Any], config: NetworkConfig, given: Collection[str]
    ) -> Contradiction | None:
        """A stored training argument that says another forward pass than `config`'s, or None.

        Args:
            arguments: of the training script.
            config: that the weights are read as.
            given: names of the options that the user gives.
        """
        return next(contradictions(self.arguments, arguments, config, given), None)

    def check_options(self, given: Collection[str]) -> None:
        """Refuse options that `convert` does not use.

        Args:
            given: names of the options that the user gives.

        Raises:
            ModelError: one of them means nothing for a checkpoint of this family.
        """
        for name in given:
            if name not in self.options or self.superseded.get(name) in given:
                flag = name.removeprefix("num_").replace("_", "-")
                raise ModelError(
                    f"--{flag} is given by the weights, or means nothing for a {self.name}: drop it"
                )
