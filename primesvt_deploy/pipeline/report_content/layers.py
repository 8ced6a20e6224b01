"""Bytes of weights by layer, before and after; the layers are disjoint and sum to all of them."""

from __future__ import annotations

from collections.abc import Sequence

from primesvt_deploy.analysis.cost import ShippedSize
from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.artifact.onnx_export import Artifact
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.report.content import LayerBytes

__all__ = ["layer_bytes"]


def layer_bytes(
    dense: SViT, shipped: SViT, artifact: Artifact, groups: Sequence[Group]
) -> tuple[LayerBytes, ...]:
    """Bytes of weights by layer.

    A layer has its weights, their scales and its biases, norms folded in. A norm that cannot be
    folded, or a position embedding, is a layer of its own: nothing is left over.

    Args:
        dense: the dense model.
        shipped: what the artifact computes, in torch.
        artifact: which knows the bits of its weights.
        groups: the dense model's groups.

    Returns:
        Layers in the order in which the dense model has them; those that only the shipped one has
        last. They sum to `weight_bytes` of the manifest's `size.dense` and `size.shipped`.
    """
    before = ShippedSize(dense, ()).by_layer({})
    after = ShippedSize(shipped, (), artifact.weight_bits).by_layer({})
    owner = {name: group.name for group in groups for name in group.outputs}
    return tuple(
        LayerBytes(
            layer=name,
            group=owner.get(name, ""),
            dense=before.get(name, 0),
            shipped=after.get(name, 0),
        )
        for name in dict.fromkeys((*before, *after))
    )
