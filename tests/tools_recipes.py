"""A recipe of a tiny network, whole or with something else in it."""

from __future__ import annotations

__all__ = ["ARGUMENTS", "TRAINING", "recipe_text"]

ARGUMENTS = """
timesteps = 2
image_size = 16
in_channels = 3
num_classes = 3
num_heads = 2
embed_dim = 16
depth = 1
pooling = "0011"
"""
TRAINING = """
phases = [[1, 3], [2, 3]]
batch_size = 8
learning_rate = 2e-3
mixup = 0.5
cutmix = 1.0
mixing = 0.5
erasing = 0.3
plain_epochs = 1
averaging = 0.9
"""


def recipe_text(model: str = "", arguments: str = ARGUMENTS, training: str = TRAINING) -> str:
    return (
        f'[model]\nname = "tiny"\nfamily = "spikformer"\nlabels = ["ant", "bee", "cat"]\n{model}\n'
        f"[model.arguments]\n{arguments}\n[training]\n{training}\n"
    )
