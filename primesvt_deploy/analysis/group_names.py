"""Names and heads of groups, from what the network's modules tell of their channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from primesvt_deploy.families.network import ChannelRole, HasRoles

__all__ = ["group_titles", "role_of"]


def group_titles(layers: Mapping[str, nn.Module], groups: Sequence[tuple[str, ...]]) -> list[str]:
    """A name for each group, from the roles of the layers that lose output channels.

    Groups without a role are a single layer's, or a stream that several modules write to:
    `residual`, numbered in the network's order where there are several.
    """
    order = {name: index for index, name in enumerate(layers)}
    titles = [_own_title(layers, outputs) for outputs in groups]
    streams = sorted(
        (i for i, title in enumerate(titles) if title is None),
        key=lambda i: min(order[name] for name in groups[i]),
    )
    names = {i: f"residual.{number}" for number, i in enumerate(streams, start=1)}
    if len(streams) == 1:
        names[streams[0]] = "residual"
    return [title or names[i] for i, title in enumerate(titles)]


def _own_title(layers: Mapping[str, nn.Module], outputs: tuple[str, ...]) -> str | None:
    for name in outputs:
        found = role_of(layers, name)
        if found is not None and found[1].label is not None:
            return ".".join(part for part in (found[0], found[1].label) if part)
    return outputs[0].removesuffix(".conv") if len(outputs) == 1 else None


def role_of(layers: Mapping[str, nn.Module], layer: str) -> tuple[str, ChannelRole] | None:
    """The nearest module around `layer` that tells its role, and the role."""
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
