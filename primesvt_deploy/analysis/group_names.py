"""Names of prunable groups, from the channel roles that the network's modules declare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from primesvt_deploy.families.coupling import ChannelRole, HasRoles

__all__ = ["group_names", "role_of"]


def group_names(layers: Mapping[str, nn.Module], groups: Sequence[tuple[str, ...]]) -> list[str]:
    """Name of each group, from the roles of the layers that lose output channels.

    A group without a role is named after its only layer, or is a stream that several modules
    write to: `residual`, numbered in the network's order where there are several.

    Args:
        layers: every module of the network, by name, in the network's order.
        groups: names of the layers of each group that lose output channels.
    """
    order = {name: index for index, name in enumerate(layers)}
    declared = [_declared_name(layers, outputs) for outputs in groups]
    streams = sorted(
        (i for i, name in enumerate(declared) if name is None),
        key=lambda i: min(order[name] for name in groups[i]),
    )
    names = {i: f"residual.{number}" for number, i in enumerate(streams, start=1)}
    if len(streams) == 1:
        names[streams[0]] = "residual"
    return [name or names[i] for i, name in enumerate(declared)]


def _declared_name(layers: Mapping[str, nn.Module], outputs: tuple[str, ...]) -> str | None:
    for name in outputs:
        found = role_of(layers, name)
        if found is not None and found[1].label is not None:
            return ".".join(part for part in (found[0], found[1].label) if part)
    return outputs[0].removesuffix(".conv") if len(outputs) == 1 else None


def role_of(layers: Mapping[str, nn.Module], layer: str) -> tuple[str, ChannelRole] | None:
    """Role of a layer's output channels, and the module that declares it.

    Args:
        layers: every module of the network, by name.
        layer: name of the layer.

    Returns:
        Name of the nearest module around the layer that declares its role, and the role; None if
        no module does.
    """
    parts = layer.split(".")
    for depth in range(len(parts) - 1, -1, -1):
        owner = ".".join(parts[:depth])
        module = layers.get(owner)
        if not isinstance(module, HasRoles):
            continue
        roles = module.channel_roles()
        for end in range(len(parts), depth, -1):
            inner = ".".join(parts[depth:end])
            if inner in roles:
                return owner, roles[inner]
    return None
